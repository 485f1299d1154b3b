//! Where a root key is: the addresses of all providers, read and checked.
//!
//! Must never hold a PIN, a token or a password, and never repeat the part of a refused address that may hold one: secrets
//! are named by the file they lie in.
//!
//! `file:/path`; `pkcs11:token=T;object=O?module-path=/path&pin-source=file:/path` (RFC 7512, these attributes);
//! `vault:https://host:port/MOUNT/keys/NAME?token-file=/path[&ca-file=/path]`;
//! `awskms:REGION/KEY[?endpoint=https://host][&credentials-file=/path]`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::KeysError;

/// LIMIT: longest address.
const URI_BYTES_MAX: usize = 2_000;

/// Where the root key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootKeyUri {
    /// In a file that only the host's account can read. For development.
    File(PathBuf),
    /// In a hardware module or something that speaks like one.
    Pkcs11(Pkcs11Uri),
    /// In the Transit engine of a Vault.
    Vault(VaultUri),
    /// In AWS KMS.
    AwsKms(AwsKmsUri),
}

/// An AES key in a PKCS#11 token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Uri {
    /// The library that speaks to the token.
    pub module_path: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub object: String,
    /// The file that holds the PIN.
    pub pin_file: PathBuf,
}

/// A key of Vault's Transit engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultUri {
    /// `https://host:port`, without a path.
    pub origin: String,
    /// Where the engine is mounted.
    pub mount: String,
    /// The key's name.
    pub key: String,
    /// The file that holds the token; read anew for each call, so that it can be renewed from outside.
    pub token_file: PathBuf,
    /// Certificates (PEM) to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

/// A key of AWS KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsKmsUri {
    /// `eu-west-1`.
    pub region: String,
    /// Key id, alias or ARN.
    pub key: String,
    /// `https://host`, without a path.
    pub endpoint: String,
    /// The file that holds the credentials; those of the environment when none.
    pub credentials_file: Option<PathBuf>,
}

// === impl RootKeyUri ===

impl RootKeyUri {
    /// The scheme, for logs and answers: it says nothing about where.
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Pkcs11(_) => "pkcs11",
            Self::Vault(_) => "vault",
            Self::AwsKms(_) => "awskms",
        }
    }
}

impl FromStr for RootKeyUri {
    type Err = KeysError;
    /// Reads an address. Unknown ones are refused by their scheme alone: the rest can hold a PIN or a token.
    fn from_str(text: &str) -> Result<Self, KeysError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        if text.len() > URI_BYTES_MAX {
            return Err(bad("file", "it is too long"));
        }
        match scheme {
            "file" => {
                let path = Path::new(rest.strip_prefix("//").unwrap_or(rest));
                if path.is_absolute() { Ok(Self::File(path.to_owned())) } else { Err(KeysError::RelativePath) }
            }
            "pkcs11" => pkcs11(rest).map(Self::Pkcs11),
            "vault" => vault(rest).map(Self::Vault),
            "awskms" => aws(rest).map(Self::AwsKms),
            _ => Err(KeysError::UnknownProvider { scheme: scheme.chars().take(20).collect() }),
        }
    }
}

impl fmt::Display for RootKeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Pkcs11(uri) => write!(f, "pkcs11:token={};object={}", uri.token, uri.object),
            Self::Vault(uri) => write!(f, "vault:{}/{}/keys/{}", uri.origin, uri.mount, uri.key),
            Self::AwsKms(uri) => write!(f, "awskms:{}/{}", uri.region, uri.key),
        }
    }
}

// === the schemes ===

fn pkcs11(rest: &str) -> Result<Pkcs11Uri, KeysError> {
    const SCHEME: &str = "pkcs11";
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut token, mut object, mut module, mut pin) = (None, None, None, None);
    for (separator, part) in [(';', path), ('&', query)] {
        for attribute in part.split(separator).filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute.split_once('=').ok_or(bad(SCHEME, "an attribute has no value"))?;
            let value = decoded(value).ok_or(bad(SCHEME, "an attribute is not well encoded"))?;
            let to = match name {
                "token" => &mut token,
                "object" => &mut object,
                "module-path" => &mut module,
                "pin-source" => &mut pin,
                "pin-value" => return Err(bad(SCHEME, "a PIN does not belong there: name its file in `pin-source`")),
                "type" if value == "secret-key" => continue,
                _ => return Err(bad(SCHEME, "it knows `token`, `object`, `module-path` and `pin-source`")),
            };
            if to.replace(value).is_some() {
                return Err(bad(SCHEME, "an attribute stands twice"));
            }
        }
    }
    let pin = pin.ok_or(bad(SCHEME, "`pin-source` is missing"))?;
    Ok(Pkcs11Uri {
        token: token.ok_or(bad(SCHEME, "`token` is missing"))?,
        object: object.ok_or(bad(SCHEME, "`object` is missing"))?,
        module_path: absolute(SCHEME, module.ok_or(bad(SCHEME, "`module-path` is missing"))?)?,
        pin_file: absolute(SCHEME, pin.strip_prefix("file:").unwrap_or(&pin).to_owned())?,
    })
}

fn vault(rest: &str) -> Result<VaultUri, KeysError> {
    const SCHEME: &str = "vault";
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (origin, path) = origin(SCHEME, address)?;
    let [mount, "keys", key] = path.split('/').collect::<Vec<_>>()[..] else {
        return Err(bad(SCHEME, "its path is `/MOUNT/keys/NAME`"));
    };
    if ![mount, key].iter().all(|part| is_word(part)) {
        return Err(bad(SCHEME, "mount and key are letters, digits, `-`, `_` and `.`"));
    }
    let [token_file, ca_file] = parameters(SCHEME, query, ["token-file", "ca-file"])?;
    let token_file = absolute(SCHEME, token_file.ok_or(bad(SCHEME, "`token-file` is missing"))?)?;
    let ca_file = ca_file.map(|file| absolute(SCHEME, file)).transpose()?;
    Ok(VaultUri { origin, mount: mount.to_owned(), key: key.to_owned(), token_file, ca_file })
}

fn aws(rest: &str) -> Result<AwsKmsUri, KeysError> {
    const SCHEME: &str = "awskms";
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (region, key) = address.split_once('/').ok_or(bad(SCHEME, "it is `awskms:REGION/KEY`"))?;
    if !is_word(region) || !key.split(['/', ':']).all(is_word) {
        return Err(bad(SCHEME, "region and key are letters, digits, `-`, `_`, `/` and `:`"));
    }
    let [endpoint, credentials_file] = parameters(SCHEME, query, ["endpoint", "credentials-file"])?;
    let endpoint = match endpoint {
        None => format!("https://kms.{region}.amazonaws.com"),
        Some(endpoint) => match origin(SCHEME, &endpoint)? {
            (origin, "") => origin,
            _ => return Err(bad(SCHEME, "`endpoint` has no path")),
        },
    };
    let credentials_file = credentials_file.map(|file| absolute(SCHEME, file)).transpose()?;
    Ok(AwsKmsUri { region: region.to_owned(), key: key.to_owned(), endpoint, credentials_file })
}

// === parts ===

const fn bad(scheme: &'static str, why: &'static str) -> KeysError {
    KeysError::BadUri { scheme, why }
}

/// `https://host[:port]` and the path after it. Plain HTTP only to this machine: the token goes with every request.
fn origin<'a>(scheme: &'static str, address: &'a str) -> Result<(String, &'a str), KeysError> {
    let (transport, rest) = address.split_once("://").ok_or(bad(scheme, "it names a server by `https://`"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let parsed: http::uri::Authority = authority.parse().map_err(|_| bad(scheme, "its server has no valid name"))?;
    if authority.contains('@') {
        return Err(bad(scheme, "a password does not belong there"));
    }
    let local = ["localhost", "127.0.0.1", "[::1]"].contains(&parsed.host());
    match transport {
        "https" => {}
        "http" if local => {}
        _ => return Err(bad(scheme, "it must be `https://`; plain HTTP reaches this machine only")),
    }
    Ok((format!("{transport}://{authority}"), path))
}

/// The values of known parameters, in the order they were asked for.
fn parameters<const N: usize>(
    scheme: &'static str,
    query: &str,
    names: [&str; N],
) -> Result<[Option<String>; N], KeysError> {
    let mut values = [const { None }; N];
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or(bad(scheme, "a parameter has no value"))?;
        let at = names.iter().position(|known| *known == name).ok_or(bad(scheme, "it has an unknown parameter"))?;
        let value = decoded(value).ok_or(bad(scheme, "a parameter is not well encoded"))?;
        if values.get_mut(at).is_none_or(|place| place.replace(value).is_some()) {
            return Err(bad(scheme, "a parameter stands twice"));
        }
    }
    Ok(values)
}

fn absolute(scheme: &'static str, path: String) -> Result<PathBuf, KeysError> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(bad(scheme, "the paths of files in it must be absolute")) }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !text.contains("..")
}

/// Percent decoding (RFC 3986, section 2.1); none when it is not well formed or has control characters.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok().filter(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RootKeyUri, KeysError> {
        text.parse()
    }

    #[test]
    fn each_scheme_is_read_as_written() {
        for good in ["file:/etc/ringfence/root.key", "file:///etc/ringfence/root.key"] {
            assert_eq!(parse(good).unwrap().to_string(), "file:/etc/ringfence/root.key");
        }
        let pkcs11 =
            parse("pkcs11:token=My%20HSM;object=root;type=secret-key?module-path=/lib/p.so&pin-source=file:/run/pin");
        assert_eq!(
            pkcs11.unwrap(),
            RootKeyUri::Pkcs11(Pkcs11Uri {
                module_path: "/lib/p.so".into(),
                token: "My HSM".into(),
                object: "root".into(),
                pin_file: "/run/pin".into(),
            })
        );
        let vault = parse("vault:https://vault.example:8200/transit/keys/ringfence?token-file=/run/token");
        assert_eq!(
            vault.unwrap(),
            RootKeyUri::Vault(VaultUri {
                origin: "https://vault.example:8200".into(),
                mount: "transit".into(),
                key: "ringfence".into(),
                token_file: "/run/token".into(),
                ca_file: None,
            })
        );
        let RootKeyUri::AwsKms(aws) = parse("awskms:eu-west-1/alias/ringfence").unwrap() else { panic!() };
        assert_eq!(
            (aws.key.as_str(), aws.endpoint.as_str()),
            ("alias/ringfence", "https://kms.eu-west-1.amazonaws.com")
        );
    }

    #[test]
    fn a_secret_in_an_address_is_refused_and_never_repeated() {
        for (text, secret) in [
            ("pkcs11:token=t;object=o?module-path=/m&pin-source=file:/p&pin-value=987654", "987654"),
            ("pkcs11:token=t;object=o;pin=987654", "987654"),
            ("vault:https://user:987654@vault.example/transit/keys/k?token-file=/t", "987654"),
            ("vault:https://vault.example/transit/keys/k?token=987654", "987654"),
            ("hsm:pin=987654", "987654"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains(secret), "{error}");
        }
    }

    #[test]
    fn addresses_that_would_surprise_are_refused() {
        for wrong in [
            "",
            "file:root.key",
            "pkcs11:token=t;object=o?module-path=relative&pin-source=/p",
            "pkcs11:token=t;token=u;object=o?module-path=/m&pin-source=/p",
            "pkcs11:token=t%zz;object=o?module-path=/m&pin-source=/p",
            "pkcs11:object=o?module-path=/m&pin-source=/p",
            "vault:http://vault.example/transit/keys/k?token-file=/t",
            "vault:https://vault.example/transit/k?token-file=/t",
            "vault:https://vault.example/transit/keys/..?token-file=/t",
            "vault:https://vault.example/transit/keys/k",
            "vault:https://vault.example/transit/keys/k?token-file=t",
            "awskms:eu-west-1",
            "awskms:eu west/k",
            "awskms:eu-west-1/k?endpoint=http://kms.example",
            "awskms:eu-west-1/k?endpoint=https://kms.example/x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("vault:http://127.0.0.1:8200/transit/keys/k?token-file=/t").is_ok());
    }
}
