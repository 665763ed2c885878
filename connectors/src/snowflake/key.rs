//! The user's key pair, and the token that says who asks: a JWT signed with RS256, naming the public key's fingerprint.
//! Snowflake's documentation: "Authenticating to the server" of the SQL API.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use sendlake_control::clock::Timestamp;
use serde::Serialize;

/// How long a token is good for. Each request has its own, so that it only has to outlive that request's way.
const LIFETIME_S: i64 = 600;

/// Who asks.
pub(super) struct KeyPair {
    key: EncodingKey,
    account: String,
    user: String,
    /// `SHA256:` and the Base64 of the public key's hash: what `DESC USER` shows as `RSA_PUBLIC_KEY_FP`.
    pub fingerprint: String,
}

#[derive(Serialize)]
struct Claims {
    iss: String,
    sub: String,
    iat: i64,
    exp: i64,
}

impl KeyPair {
    /// Reads PKCS#8 in PEM. The error says what is wrong with the key, and nothing of what is in it.
    pub fn read(account: &str, user: &str, pem: &str) -> Result<Self, String> {
        // A variable of the environment often has its line breaks written out.
        let pem = pem.replace("\\n", "\n");
        if pem.contains("BEGIN ENCRYPTED PRIVATE KEY") {
            return Err("the private key is encrypted, and sendlake asks for no passphrase; take the encryption off with \
                        `openssl pkcs8 -in key.p8 -out plain.p8`, keep the result by `sendlake secret set <name>` (sealed \
                        under the master key), write private_key = \"secret:<name>\", and delete plain.p8"
                .to_owned());
        }
        if pem.contains("BEGIN RSA PRIVATE KEY") {
            return Err("the private key is PKCS#1; make it PKCS#8 with `openssl pkcs8 -topk8 -nocrypt -in key.pem -out \
                        key.p8`"
                .to_owned());
        }
        let body: String = pem
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != "-----BEGIN PRIVATE KEY-----")
            .skip(1)
            .take_while(|line| !line.starts_with("-----"))
            .collect();
        let not_rsa = "it holds no RSA key of 2048 bits or more as PKCS#8 in PEM (-----BEGIN PRIVATE KEY-----); make one with \
                       `openssl genrsa 2048 | openssl pkcs8 -topk8 -inform PEM -out key.p8 -nocrypt`";
        let der = STANDARD.decode(body).map_err(|_| not_rsa.to_owned())?;
        let pair = RsaKeyPair::from_pkcs8(&der).map_err(|_| not_rsa.to_owned())?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| not_rsa.to_owned())?;
        let fingerprint = format!("SHA256:{}", STANDARD.encode(digest(&SHA256, public.as_ref())));
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| not_rsa.to_owned())?;
        Ok(Self { key, account: issuer_account(account), user: user.to_uppercase(), fingerprint })
    }

    /// The account and the user as a token names them.
    pub fn who(&self) -> (&str, &str) {
        (&self.account, &self.user)
    }

    /// A token that is good from now on.
    pub fn token(&self, now: Timestamp) -> Result<String, String> {
        let Self { key, account, user, fingerprint } = self;
        let iat = now.as_secs();
        let claims = Claims {
            iss: format!("{account}.{user}.{fingerprint}"),
            sub: format!("{account}.{user}"),
            iat,
            exp: iat.saturating_add(LIFETIME_S),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, key).map_err(|error| error.to_string())
    }
}

/// The account as a token names it: without what says where it is, upper case, and no period in it.
fn issuer_account(account: &str) -> String {
    let cut = if account.to_ascii_lowercase().ends_with(".global") { '-' } else { '.' };
    let name = account.split(cut).next().unwrap_or(account);
    name.to_uppercase().replace('.', "-")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A key made for this run.
    pub(crate) fn new_pem() -> String {
        use aws_lc_rs::encoding::Pkcs8V1Der;
        use aws_lc_rs::rsa::KeySize;
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    #[test]
    fn an_account_is_named_as_tokens_want_it() {
        for (written, named) in [
            ("myorg-myaccount", "MYORG-MYACCOUNT"),
            ("xy12345", "XY12345"),
            ("xy12345.eu-central-1", "XY12345"),
            ("xy12345.west-europe.azure", "XY12345"),
            ("xy12345-extid.global", "XY12345"),
            ("my_org-my_account", "MY_ORG-MY_ACCOUNT"),
        ] {
            assert_eq!(issuer_account(written), named);
        }
    }

    #[test]
    fn a_key_of_another_form_is_told_what_to_do() {
        let problem = |pem: &str| KeyPair::read("a", "u", pem).err().unwrap();
        let encrypted =
            problem("-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----");
        assert!(encrypted.contains("openssl pkcs8 -in"), "{encrypted}");
        assert!(problem("-----BEGIN RSA PRIVATE KEY-----\n").contains("-topk8"));
        let broken = problem("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----");
        assert!(broken.contains("genrsa") && !broken.contains("c2VjcmV0"), "{broken}");
    }

    #[test]
    fn a_token_names_who_asks_and_ends() {
        let pem = new_pem();
        let key = KeyPair::read("xy12345.eu-central-1", "loader", &pem).unwrap();
        // One line, as a variable of the environment may have it.
        let same = KeyPair::read("xy12345", "LOADER", &pem.replace('\n', "\\n")).unwrap();
        assert_eq!(key.fingerprint, same.fingerprint);
        let token = key.token(Timestamp::from_secs(1_000)).unwrap();
        let payload = token.split('.').nth(1).unwrap();
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(claims["sub"], "XY12345.LOADER");
        assert_eq!(claims["iss"], format!("XY12345.LOADER.{}", key.fingerprint));
        assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(1_000), Some(1_600)));
    }
}
