//! One POST to whoever wakes people up. The address may hold a secret: it is in a file of the host,
//! read for each POST, and in no error, log or metric.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{self, ClientError, Roots};

/// From the connection to the status line.
const TIMEOUT: Duration = Duration::from_secs(20);
/// An address is no longer.
const URL_OCTETS_MAX: u64 = 4096;

/// Where pages go. Clones are handles to the same.
#[derive(Clone)]
pub struct Webhook {
    url_file: Arc<Path>,
    tls: Arc<ClientConfig>,
}

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The file with its address.
    #[error("the webhook's address in {}: {why}", path.display())]
    Address {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The roots its certificate is checked by.
    #[error(transparent)]
    Tls(#[from] ClientError),
}

/// Why a page was not taken. It never says where it went.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// The address cannot be read now.
    #[error(transparent)]
    Address(#[from] WebhookError),
    /// No connection.
    #[error("the webhook cannot be reached: {0}")]
    Unreached(std::io::ErrorKind),
    /// No answer that is HTTP.
    #[error("the webhook does not speak HTTP")]
    Http,
    /// No answer in time.
    #[error("the webhook did not answer within {} s", TIMEOUT.as_secs())]
    Late,
    /// An answer that is not 2xx.
    #[error("the webhook answered {0}")]
    Refused(StatusCode),
}

/// Where and what to ask.
struct Place {
    host: String,
    port: u16,
    is_https: bool,
    path: String,
}

impl Webhook {
    /// The webhook whose address is the first line of `url_file`.
    pub fn open(url_file: &Path, roots: &Roots) -> Result<Self, WebhookError> {
        let webhook = Self { url_file: url_file.into(), tls: client::verified(roots)? };
        webhook.place()?;
        Ok(webhook)
    }

    /// Send a JSON text; `Ok` if it was taken.
    pub async fn post(&self, json: Vec<u8>) -> Result<StatusCode, NotTaken> {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || this.place());
        let place = read.await.map_err(|_| NotTaken::Unreached(std::io::ErrorKind::Other))??;
        let asked = tokio::time::timeout(TIMEOUT, self.ask(&place, json));
        match asked.await.map_err(|_| NotTaken::Late)?? {
            status if status.is_success() => Ok(status),
            status => Err(NotTaken::Refused(status)),
        }
    }

    async fn ask(&self, place: &Place, json: Vec<u8>) -> Result<StatusCode, NotTaken> {
        let host = place.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, place.port)).await.map_err(unreached)?;
        if !place.is_https {
            return exchange(stream, place, json).await;
        }
        let unfit = |_| NotTaken::Unreached(std::io::ErrorKind::InvalidInput);
        let name = ServerName::try_from(host.to_owned()).map_err(unfit)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(unreached)?;
        exchange(stream, place, json).await
    }

    fn place(&self) -> Result<Place, WebhookError> {
        let bad = |why: String| WebhookError::Address { path: self.url_file.to_path_buf(), why };
        let file = std::fs::File::open(&self.url_file).map_err(|error| bad(error.to_string()))?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, URL_OCTETS_MAX), &mut text)
            .map_err(|error| bad(error.to_string()))?;
        place(text.lines().next().unwrap_or_default().trim()).map_err(|why| bad(why.to_owned()))
    }
}

/// What the system or TLS says of a connection may name its other end.
#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn unreached(error: std::io::Error) -> NotTaken {
    NotTaken::Unreached(error.kind())
}

/// What is wrong is said without repeating it.
fn place(url: &str) -> Result<Place, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "the first line is no web address")?;
    let is_https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("it must begin with https:// (or http://, inside a network of yours)"),
    };
    let authority = uri.authority().ok_or("it has no host")?;
    if authority.as_str().contains('@') {
        return Err("it must not have a user name");
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    Ok(Place { host: authority.host().to_owned(), port, is_https, path })
}

async fn exchange<S>(stream: S, place: &Place, json: Vec<u8>) -> Result<StatusCode, NotTaken>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let not_http = |_| NotTaken::Http;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    // The connection must be driven for the request to move; dropped, it ends.
    let driver = tokio::spawn(connection);
    let request = Request::post(&place.path)
        .header("host", format!("{}:{}", place.host, place.port))
        .header("content-type", "application/json")
        .header("user-agent", concat!("mxfleet/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close")
        .body(Full::new(Bytes::from(json)))
        .map_err(|_| NotTaken::Http)?;
    let response = sender.send_request(request).await.map_err(not_http);
    driver.abort();
    Ok(response?.status())
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("url_file", &self.url_file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn opened(url: &str) -> Result<(Webhook, tempfile::TempDir), WebhookError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("webhook");
        std::fs::write(&file, url).unwrap();
        Ok((Webhook::open(&file, &Roots::System)?, dir))
    }

    #[test]
    fn a_wrong_address_is_told_without_being_shown() {
        for url in
            ["", "hooks.test/sEcReT", "ftp://x.test/sEcReT", "https://u:sEcReT@x.test/", "/x"]
        {
            let error = opened(url).unwrap_err().to_string();
            assert!(error.starts_with("the webhook's address in /"), "{error}");
            assert!(!error.contains("sEcReT"), "{error}");
        }
        let (webhook, _dir) = opened("https://hooks.test/sEcReT\n").unwrap();
        assert!(!format!("{webhook:?}").contains("sEcReT"));
        let at = place("https://[2001:db8::1]/a?b=c").unwrap();
        assert_eq!((&*at.host, at.port, &*at.path), ("[2001:db8::1]", 443, "/a?b=c"));
    }

    #[tokio::test]
    async fn only_a_2xx_takes_a_page_and_no_error_shows_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (webhook, _dir) = opened(&format!("http://{at}/sEcReT?x=y")).unwrap();
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", "200 OK"),
            ("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", "202 Accepted"),
            ("HTTP/1.1 503 sEcReT\r\n\r\n", "the webhook answered 503 Service Unavailable"),
            (
                "HTTP/1.1 301 x\r\nLocation: /y\r\n\r\n",
                "the webhook answered 301 Moved Permanently",
            ),
            ("220 mail.test ESMTP\r\n", "the webhook does not speak HTTP"),
            ("", "the webhook does not speak HTTP"),
        ] {
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"{\"a\":1}") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(request).unwrap()
            };
            let (request, posted) = tokio::join!(serve, webhook.post(b"{\"a\":1}".to_vec()));
            assert!(request.starts_with("POST /sEcReT?x=y HTTP/1.1\r\n"), "{request}");
            let said = posted.map_or_else(|error| error.to_string(), |status| status.to_string());
            assert_eq!(said, expected);
        }
        drop(listener);
        let error = webhook.post(Vec::new()).await.unwrap_err().to_string();
        assert!(error.starts_with("the webhook cannot be reached: "), "{error}");
        assert!(!error.contains("sEcReT"));
    }
}
