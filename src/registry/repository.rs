//! One repository of a registry, as `oci-client` speaks to it: logged in as far as the registry asks.

use std::error::Error as _;
use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use oci_client::Client;
use oci_client::RegistryOperation;
use oci_client::client::{
    Certificate, CertificateEncoding, ClientConfig, ClientProtocol, SizedStream,
};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor};
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::RegistryTokenType;
use tokio::sync::RwLock;

use super::address::Address;
use super::artifact::Blob;
use super::index::{CATALOG, MAX_SIZE};
use crate::fetch::{Client as FetchClient, Options, provide_tls};
use crate::words::Digest;

/// A registry that says nothing for so long, in the middle of an answer, is asked no longer.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(30);
/// A manifest, of 4 MiB at most, takes no longer.
const MANIFEST: Duration = Duration::from_secs(120);

/// A repository.
pub(super) struct Repository {
    pub(super) address: Address,
    login: RegistryAuth,
    certificates: Vec<Certificate>,
    client: RwLock<Asking>,
}

/// How the registry is asked.
#[derive(Clone)]
struct Asking {
    client: Client,
    auth: RegistryAuth,
    /// Whether the registry was asked first how it wants to be asked.
    is_by_challenge: bool,
}

impl Repository {
    /// # Errors
    /// When the certificates or the password can't be read.
    pub(super) async fn open(address: &Address, options: &Options) -> anyhow::Result<Self> {
        provide_tls();
        let data = options.certificates()?;
        let encoding = CertificateEncoding::Pem;
        let certificates = if data.is_empty() {
            Vec::new()
        } else {
            vec![Certificate { encoding, data }]
        };
        let login = options.credentials()?;
        let login = login.map(|(user, password)| RegistryAuth::Basic(user, password));
        let login = login.unwrap_or(RegistryAuth::Anonymous);
        let client = Asking::plain(address, &login, &certificates).await?;
        Ok(Self {
            address: address.clone(),
            login,
            certificates,
            client: RwLock::new(client),
        })
    }

    /// The digest of the manifest that the tag of the index names: one request, and no bytes of it.
    pub(super) async fn ask(&self) -> anyhow::Result<Option<Digest>> {
        let reference = self.address.tag(CATALOG);
        let mut asking = self.client.read().await.clone();
        let mut answer = asking.digest(&reference).await;
        if is_refused(&answer) && !asking.is_by_challenge {
            asking = Asking::by_challenge(&self.address, &self.login, &self.certificates)?;
            *self.client.write().await = asking.clone();
            answer = asking.digest(&reference).await;
        }
        let name = self.told("asking for the index of", found(answer))?;
        let name = name.map(|name| Blob::of(&name, 0));
        let blob = self.told("asking for the index of", name.transpose())?;
        Ok(blob.map(|it| it.digest))
    }

    /// The index, as it is; [`Repository::ask`] comes first.
    pub(super) async fn index(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let asking = self.client.read().await.clone();
        let types = &[OCI_IMAGE_INDEX_MEDIA_TYPE];
        let reference = self.address.tag(CATALOG);
        let pull = || {
            asking
                .client
                .pull_manifest_raw(&reference, &asking.auth, types)
        };
        let pulled = once_more(|| in_time(MANIFEST, pull())).await;
        let pulled = self.told("reading the index of", found(pulled))?;
        let bytes = pulled.map(|(bytes, _)| bytes.to_vec());
        let length = bytes.as_ref().map_or(0, Vec::len);
        ensure!(
            length <= MAX_SIZE,
            "the index of {} has {length} bytes; expected at most {MAX_SIZE}",
            self.address
        );
        Ok(bytes)
    }

    /// The OCI manifest of this digest.
    pub(super) async fn manifest(&self, blob: Blob) -> anyhow::Result<Vec<u8>> {
        let asking = self.client.read().await.clone();
        let types = &[OCI_IMAGE_MEDIA_TYPE];
        let reference = self.address.digest(&blob.digest);
        let pull = || {
            asking
                .client
                .pull_manifest_raw(&reference, &asking.auth, types)
        };
        let pulled = once_more(|| in_time(MANIFEST, pull())).await;
        let doing = format!("reading the manifest {} of", blob.name());
        let (bytes, _) = self.told(&doing, pulled)?;
        let is_right = Blob::of_bytes(&bytes) == blob;
        ensure!(is_right, "{doing} {}: it is another one", self.address);
        Ok(bytes.to_vec())
    }

    pub(super) async fn has(&self, blob: Blob) -> anyhow::Result<bool> {
        let client = self.client.read().await.client.clone();
        let (reference, name) = (self.address.tag(CATALOG), blob.name());
        let there = once_more(|| in_time(SILENCE, client.blob_exists(&reference, &name))).await;
        self.told(&format!("asking for {name} of"), there)
    }

    /// The bytes of a blob from `offset` on, and whether they are those: a registry may send all.
    pub(super) async fn stream(
        &self,
        blob: Blob,
        offset: u64,
    ) -> anyhow::Result<(SizedStream, bool)> {
        use oci_client::client::BlobResponse;
        let client = self.client.read().await.client.clone();
        let reference = self.address.tag(CATALOG);
        let descriptor = OciDescriptor {
            digest: blob.name(),
            ..OciDescriptor::default()
        };
        let doing = format!("reading {} of", blob.name());
        if offset == 0 {
            let stream = client.pull_blob_stream(&reference, &descriptor).await;
            return Ok((self.told(&doing, stream)?, true));
        }
        let response = client.pull_blob_stream_partial(&reference, &descriptor, offset, None);
        Ok(match self.told(&doing, response.await)? {
            BlobResponse::Full(stream) => (stream, false),
            BlobResponse::Partial(stream) => (stream, true),
        })
    }

    /// As `oci-client` has it, for uploads.
    pub(super) async fn client(&self) -> Client {
        self.client.read().await.client.clone()
    }

    /// What was returned by what was `doing` something to this repository.
    pub(super) fn told<T, E: Into<anyhow::Error>>(
        &self,
        doing: &str,
        returned: Result<T, E>,
    ) -> anyhow::Result<T> {
        returned.map_err(|error| {
            let error = error.into();
            let said = match error.downcast_ref::<OciDistributionError>() {
                Some(error) => said(error),
                None => format!("{error:#}"),
            };
            anyhow!("{doing} {}: {said}", self.address)
        })
    }
}

impl Asking {
    /// Asks for what is wanted at once: with the password where there is one. Whoever wants to be asked
    /// otherwise says so.
    async fn plain(
        address: &Address,
        login: &RegistryAuth,
        certificates: &[Certificate],
    ) -> anyhow::Result<Self> {
        let client = client(address, certificates)?;
        let auth = match login {
            RegistryAuth::Basic(user, password) => {
                let login = RegistryTokenType::Basic(user.clone(), password.clone());
                for operation in [RegistryOperation::Pull, RegistryOperation::Push] {
                    let tokens = &client.tokens;
                    tokens
                        .insert(&address.tag(CATALOG), operation, login.clone())
                        .await;
                }
                login_of(user, password)
            }
            // With an empty token `oci-client` doesn't ask first, at each request, whether it needs one.
            _ => RegistryAuth::Bearer(String::new()),
        };
        client.store_auth_if_needed(&address.host, &auth).await;
        Ok(Self {
            client,
            auth,
            is_by_challenge: false,
        })
    }

    /// Asks first how the registry wants to be asked: a token costs two requests more.
    fn by_challenge(
        address: &Address,
        login: &RegistryAuth,
        certificates: &[Certificate],
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: client(address, certificates)?,
            auth: login.clone(),
            is_by_challenge: true,
        })
    }

    async fn digest(
        &self,
        reference: &oci_client::Reference,
    ) -> Result<String, OciDistributionError> {
        let ask = || self.client.fetch_manifest_digest(reference, &self.auth);
        once_more(|| in_time(MANIFEST, ask())).await
    }
}

fn login_of(user: &str, password: &str) -> RegistryAuth {
    RegistryAuth::Basic(user.to_string(), password.to_string())
}

fn client(address: &Address, certificates: &[Certificate]) -> anyhow::Result<Client> {
    let config = ClientConfig {
        protocol: if address.is_https {
            ClientProtocol::Https
        } else {
            ClientProtocol::Http
        },
        // One request for each blob, and no more of it in memory than is on the way.
        use_monolithic_push: true,
        extra_root_certificates: certificates.to_vec(),
        // Without a read timeout: it would count from the begin of an upload on.
        connect_timeout: Some(CONNECT),
        user_agent: concat!("netboot-import/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    let made = Client::try_from(config).map_err(|error| anyhow!(said(&error)));
    made.with_context(|| format!("making a client for {address}"))
}

/// What `ask` returns; asks once more where a connection was there, and broke: a registry that was started
/// again has closed those of before.
async fn once_more<T, A: Future<Output = Result<T, OciDistributionError>>>(
    ask: impl Fn() -> A,
) -> Result<T, OciDistributionError> {
    match ask().await {
        Err(OciDistributionError::RequestError(error))
            if error.is_request() && !error.is_connect() && !error.is_timeout() =>
        {
            ask().await
        }
        answer => answer,
    }
}

/// What `asked` returns, in so much time.
async fn in_time<T>(
    time: Duration,
    asked: impl Future<Output = Result<T, OciDistributionError>>,
) -> Result<T, OciDistributionError> {
    let answered = tokio::time::timeout(time, asked).await;
    answered.unwrap_or_else(|_| {
        let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
        Err(OciDistributionError::IoError(silent))
    })
}

/// `None` where there is nothing of that name.
fn found<T>(answer: Result<T, OciDistributionError>) -> Result<Option<T>, OciDistributionError> {
    match answer {
        Err(error) if is_missing(&error) => Ok(None),
        answer => answer.map(Some),
    }
}

fn is_missing(error: &OciDistributionError) -> bool {
    let codes = [
        OciErrorCode::ManifestUnknown,
        OciErrorCode::NameUnknown,
        OciErrorCode::NotFound,
    ];
    match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|it| codes.contains(&it.code))
        }
        OciDistributionError::ServerError { code, .. } => *code == 404,
        _ => false,
    }
}

fn is_refused<T>(answer: &Result<T, OciDistributionError>) -> bool {
    match answer {
        Err(OciDistributionError::UnauthorizedError { .. }) => true,
        Err(OciDistributionError::RegistryError { envelope, .. }) => {
            let codes = [OciErrorCode::Denied, OciErrorCode::Unauthorized];
            envelope.errors.iter().any(|it| codes.contains(&it.code))
        }
        _ => false,
    }
}

/// What `oci-client` says, for people: nothing of it moves a cursor.
pub(super) fn said(error: &OciDistributionError) -> String {
    const LOGIN: &str = "expected a login that may do that (`username`, `password_file`)";
    let text = match error {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::ServerError { code: 401, .. } => {
            format!("not authorized; {LOGIN}")
        }
        OciDistributionError::AuthenticationFailure(why) => {
            format!("not authorized: {}; {LOGIN}", why.trim())
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let errors = envelope.errors.iter();
            let said = errors.map(|it| match it.message.trim() {
                "" => "an error without words".to_string(),
                message => message.to_string(),
            });
            said.collect::<Vec<_>>().join(", ")
        }
        OciDistributionError::DigestError(_) => {
            "what came isn't what it is called by: somebody has \
            changed it there, or its disk is damaged; it was not taken"
                .to_string()
        }
        OciDistributionError::ServerError { code, message, .. } => {
            format!("the registry answers {code}: {}", message.trim())
        }
        OciDistributionError::RequestError(error) => {
            chain(&error.to_string(), error.source()) + FetchClient::remedy(error)
        }
        error => chain(&error.to_string(), error.source()),
    };
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    plain.chars().take(1_000).collect()
}

/// An error with all that led to it, each once.
fn chain(first: &impl Display, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = first.to_string();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
