//! STARTTLS against servers with good, wrong and broken TLS.

use std::io::Write as _;
use std::sync::Arc;

use mxfleet_cluster::TlsPolicy::{self, Opportunistic, Pinned, Require};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

use crate::client::testing::{Server, client_with, envelope, outgoing, short};
use crate::client::{ClientError, Roots};
use crate::config::Limits;
use crate::smtp::envelope::{Envelope, Notify};

/// A certificate authority of our own, and a file that trusts it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn roots(&self) -> Roots {
        Roots::File(self.file.path().to_owned())
    }

    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        acceptor(certificate.der().clone(), &key)
    }
}

fn self_signed(name: &str) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    acceptor(certificate.der().clone(), &key)
}

fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

const OFFER: &str = "> 220 mx\n< EHLO\n> 250-mx\n> 250-STARTTLS\n> 250 PIPELINING\n";
const TAKE: &str = "< MAIL\n< RCPT\n< DATA\n> 250 m\n> 250 r\n> 354 go\n<.\n> 250 taken\n";

/// After the handshake the server says again what it can do, and other things than before.
fn encrypted() -> String {
    let inside = "tls\n< EHLO client.example.test\n> 250-mx\n> 250-PIPELINING\n> 250 DSN\n";
    let take = TAKE.replace("< RCPT", "< RCPT TO:<a@example.test> NOTIFY=FAILURE");
    format!("{OFFER}< STARTTLS\n> 220 go\n{inside}{take}")
}

fn clear() -> String {
    format!("> 220 mx\n< EHLO\n> 250-mx\n> 250 PIPELINING\n{TAKE}")
}

/// Deliver one message; gives the answer, and whether it was encrypted.
async fn deliver(
    policy: TlsPolicy,
    roots: &Roots,
    scripts: &[&str],
    tls: TlsAcceptor,
) -> (String, bool) {
    let server = Server::with_tls(scripts, Some(tls)).await;
    let limits = Limits { tls_handshake_timeout_ms: 2000, ..Limits::default() };
    let mut connection = match client_with(roots, limits).connect(&server.hop(policy)).await {
        Ok(connection) => connection,
        Err(response) => return (short(&[response]).remove(0), false),
    };
    let mut envelope = envelope(&["a@example.test"]);
    envelope.recipients[0].notify = Some(Notify { success: false, failure: true, delay: false });
    let responses = connection.deliver(outgoing(&envelope, &[0], "x\r\n")).await;
    (short(&responses).remove(0), server.seen().await.handshakes > 0)
}

fn delivered(encrypted: bool) -> (String, bool) {
    ("final-dot 250".to_owned(), encrypted)
}

fn refused() -> (String, bool) {
    ("starttls unfit 4.7.5".to_owned(), false)
}

#[tokio::test]
async fn opportunistic_tls_takes_any_certificate() {
    let ca = Authority::new();
    for tls in [self_signed("other.test"), ca.acceptor("other.test")] {
        let got = deliver(Opportunistic, &ca.roots(), &[&encrypted()], tls).await;
        assert_eq!(got, delivered(true));
    }
}

#[tokio::test]
async fn required_tls_takes_only_a_valid_certificate_for_the_name() {
    let ca = Authority::new();
    let cases = [
        (ca.acceptor("mx.example.test"), delivered(true)),
        (ca.acceptor("other.test"), refused()),
        (self_signed("mx.example.test"), refused()),
        (Authority::new().acceptor("mx.example.test"), refused()),
    ];
    for (tls, expected) in cases {
        assert_eq!(deliver(Require, &ca.roots(), &[&encrypted()], tls).await, expected);
    }
}

#[tokio::test]
async fn pinned_tls_takes_one_of_the_names() {
    let ca = Authority::new();
    let names = Pinned(vec!["first.test".to_owned(), "second.test".to_owned()]);
    let cases = [
        (ca.acceptor("second.test"), delivered(true)),
        (ca.acceptor("mx.example.test"), refused()),
        (self_signed("second.test"), refused()),
    ];
    for (tls, expected) in cases {
        assert_eq!(deliver(names.clone(), &ca.roots(), &[&encrypted()], tls).await, expected);
    }
    let tls = ca.acceptor("a.test");
    let nameless = deliver(Pinned(Vec::new()), &ca.roots(), &[&encrypted()], tls).await;
    assert_eq!(nameless, refused());
}

#[tokio::test]
async fn broken_tls_is_tried_again_in_the_clear_unless_it_is_required() {
    let ca = Authority::new();
    let broken = [
        format!("{OFFER}< STARTTLS\n> 454 4.7.0 not now"),
        format!("{OFFER}< STARTTLS\n> 501 5.5.4 no"),
        format!("{OFFER}< STARTTLS\n> 220 go\n> this is not TLS at all"),
        format!("{OFFER}< STARTTLS\n> 220 go\nreset"),
        format!("{OFFER}< STARTTLS\nreset"),
        format!("{OFFER}< STARTTLS\n> nonsense"),
        // Replies that arrive ahead of the handshake could have been put there by anyone.
        format!("{OFFER}< STARTTLS\n>> 220 go\\r\\n250 injected\\r\\n\ntls"),
        format!("{OFFER}< STARTTLS\n>> 220 go\\r\\n250-half\nsilence"),
    ];
    for script in &broken {
        let scripts = [&script[..], &clear()];
        let tls = ca.acceptor("mx.example.test");
        let got = deliver(Opportunistic, &ca.roots(), &scripts, tls.clone()).await;
        assert_eq!(got, delivered(false), "{script}");
        assert_eq!(deliver(Require, &ca.roots(), &[script], tls).await, refused(), "{script}");
    }
}

#[tokio::test]
async fn a_server_that_wants_tls_refuses_nothing_for_good_while_tls_fails() {
    let ca = Authority::new();
    let broken = format!("{OFFER}< STARTTLS\n> 454 4.7.0 not now");
    let cases = [
        ("< MAIL\n> 530 5.7.0 Must issue a STARTTLS command first", refused()),
        ("< MAIL\n< RCPT\n> 250 m\n> 550 5.7.10 encrypt", refused()),
        ("< MAIL\n< RCPT\n> 250 m\n> 550 5.1.1 who?", ("rcpt 550".to_owned(), false)),
        ("< MAIL\n> 550 5.7.1 no", ("mail 550".to_owned(), false)),
    ];
    for (rest, expected) in cases {
        let clear = format!("> 220 mx\n< EHLO\n> 250-mx\n> 250 PIPELINING\n{rest}");
        let tls = ca.acceptor("mx.example.test");
        let got = deliver(Opportunistic, &ca.roots(), &[&broken, &clear], tls).await;
        assert_eq!(got, expected, "{rest}");
    }
    // What it offers only over TLS is not known yet.
    let server = Server::start(&[&broken, "> 220 mx\n< EHLO\n> 250 mx\n< QUIT"]).await;
    let client = client_with(&ca.roots(), Limits::default());
    let mut connection = client.connect(&server.hop(Opportunistic)).await.unwrap();
    let utf8 = Envelope { smtputf8: true, ..envelope(&["a@example.test"]) };
    let responses = connection.deliver(outgoing(&utf8, &[0], "x\r\n")).await;
    assert_eq!(short(&responses), ["mail unfit 4.7.5"], "others may go on");
    connection.quit().await;
}

#[tokio::test]
async fn required_tls_needs_the_offer() {
    let ca = Authority::new();
    let tls = ca.acceptor("mx.example.test");
    let got = deliver(Require, &ca.roots(), &[&clear()], tls).await;
    assert_eq!(got, ("starttls unfit 4.7.4".to_owned(), false));
}

#[tokio::test]
async fn a_handshake_that_hangs_is_cut() {
    let ca = Authority::new();
    let hanging = format!("{OFFER}< STARTTLS\n> 220 go\nsilence");
    let tls = ca.acceptor("mx.example.test");
    let got = deliver(Opportunistic, &ca.roots(), &[&hanging, &clear()], tls).await;
    assert_eq!(got, delivered(false));
}

#[test]
fn a_root_file_must_be_usable() {
    let make = |roots: &Roots| {
        let limits = Arc::new(Limits::default());
        crate::client::Client::new("client.example.test".to_owned(), limits, roots)
    };
    let missing = make(&Roots::File("/nonexistent/ca.pem".into()));
    assert!(matches!(missing, Err(ClientError::Roots { .. })));
    let empty = NamedTempFile::new().unwrap();
    assert!(matches!(make(&Roots::File(empty.path().into())), Err(ClientError::Roots { .. })));
}
