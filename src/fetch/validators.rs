//! By what a host tells one state of a file from another (RFC 9110, section 8.8).

use headers::ETag;
use reqwest::header::{
    ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED,
};
use serde::{Deserialize, Serialize};

/// What a host has said of the state of a file, as it stood in its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
}

impl Validators {
    pub(super) fn of(answer: &HeaderMap) -> Self {
        let text = |name| Some(answer.get(name)?.to_str().ok()?.to_string());
        Self {
            etag: text(ETAG),
            last_modified: text(LAST_MODIFIED),
        }
    }

    /// Asks for a file only if it has changed.
    pub(super) fn ask_for_change(&self, request: &mut HeaderMap) {
        put(request, IF_NONE_MATCH, self.etag.as_ref());
        put(request, IF_MODIFIED_SINCE, self.last_modified.as_ref());
    }

    /// Asks for the rest of a file only if it has not changed. A weak tag is no good for that.
    pub(super) fn ask_for_rest(&self, request: &mut HeaderMap) {
        let state = self.strong().or(self.last_modified.as_ref());
        put(request, IF_RANGE, state);
    }

    /// Whether the host has said otherwise: both have a strong tag, and not the same.
    pub(super) fn contradict(&self, other: &Self) -> bool {
        let both = self.strong().zip(other.strong());
        both.is_some_and(|(one, other)| one != other)
    }

    fn strong(&self) -> Option<&String> {
        let is_strong = |tag: &&String| tag.parse::<ETag>().is_ok_and(|tag| !tag.is_weak());
        self.etag.as_ref().filter(is_strong)
    }
}

/// What is no header's value is not sent.
fn put(request: &mut HeaderMap, name: HeaderName, value: Option<&String>) {
    let value = value.and_then(|value| HeaderValue::from_str(value).ok());
    if let Some(value) = value {
        request.insert(name, value);
    }
}
