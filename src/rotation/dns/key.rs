//! The key updates are signed with (TSIG, RFC 8945), in the form `tsig-keygen` writes.

use std::path::{Path, PathBuf};

use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, TSigner};

/// How far the clocks may be apart, in seconds (RFC 8945 section 10).
const FUDGE_S: u16 = 300;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(in crate::rotation) enum KeyError {
    #[error("the key file {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "the key file {} is not as `tsig-keygen` writes it: key \"NAME\" {{ algorithm ...; \
         secret \"...\"; }};",
        path.display()
    )]
    Form { path: PathBuf },
}

/// Read the key in this file.
pub(super) fn read(path: &Path) -> Result<TSigner, KeyError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    parse(&text).ok_or_else(|| KeyError::Form { path: path.to_owned() })
}

fn parse(text: &str) -> Option<TSigner> {
    let quoted = |after: &str| {
        let rest = text.split_once(after)?.1.trim_start();
        match rest.strip_prefix('"') {
            Some(rest) => rest.split('"').next(),
            None => rest.split([';', ' ', '{', '\n']).next(),
        }
    };
    let algorithm = match quoted("algorithm")?.to_ascii_lowercase().as_str() {
        "hmac-sha256" => TsigAlgorithm::HmacSha256,
        "hmac-sha384" => TsigAlgorithm::HmacSha384,
        "hmac-sha512" => TsigAlgorithm::HmacSha512,
        _ => return None,
    };
    let secret = data_encoding::BASE64.decode(quoted("secret")?.as_bytes()).ok()?;
    let name = Name::from_ascii(quoted("key")?).ok()?;
    TSigner::new(secret, algorithm, name, FUDGE_S).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tsig_keygen_writes_is_read() {
        let text = "key \"mxfleet\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IQ==\";\n};\n";
        let key = parse(text).unwrap();
        assert_eq!(key.key(), b"secret!");
        assert_eq!(key.signer_name().to_string(), "mxfleet.");
        assert!(parse("key mxfleet { algorithm hmac-sha512; secret \"AAAA\"; };").is_some());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "key \"a\" { algorithm hmac-md5; secret \"AAAA\"; };",
            "key \"a\" { algorithm hmac-sha256; secret \"not base64!\"; };",
            "algorithm hmac-sha256; secret \"AAAA\";",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
