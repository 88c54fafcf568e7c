//! A client that sends exactly what it is told, in clear text or in TLS that trusts anybody.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Far above what any answer takes, so that only a server that hangs runs into it.
const PATIENCE: Duration = Duration::from_secs(20);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) struct Client {
    stream: Option<Box<dyn Stream>>,
    input: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Some(Box::new(stream)), input: Vec::new() }
    }

    /// Send; a server that has closed already is no failure here, its last reply tells.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let stream = self.stream.as_mut().unwrap();
        let sent = tokio::time::timeout(PATIENCE, async {
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
        });
        sent.await.expect("the server does not read");
    }

    /// The next line without its CRLF; `None` when the server has closed.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).expect("a reply is text"));
            }
            let stream = self.stream.as_mut().unwrap();
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut self.input)).await;
            match read {
                Err(_) => return Some("<no answer>".to_owned()),
                Ok(Ok(octets)) if octets > 0 => {}
                Ok(_) if self.input.is_empty() => return None,
                // A TLS alert is a record of type 21, and no text.
                Ok(_) if self.input[0] == 21 => return Some("<tls alert>".to_owned()),
                Ok(_) => return Some(format!("<half a line: {}>", self.input.escape_ascii())),
            }
        }
    }

    /// All lines of the next reply.
    pub(crate) async fn reply(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                return Some(lines);
            }
        }
    }

    /// Shake hands, asking for `name`.
    pub(crate) async fn start_tls(&mut self, name: &str) -> std::io::Result<()> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAnybody))
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = self.stream.take().unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        self.stream = Some(Box::new(stream));
        Ok(())
    }
}

#[derive(Debug)]
struct TrustAnybody;

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
