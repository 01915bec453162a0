//! A Langfuse that takes media, and its storage, which is somebody else's.
use crate::collector::{Collector, Reply, Seen};
use serde_json::json;
use telemetry::client::handle::Client;

pub struct Langfuse {
    pub api: Collector,
    pub store: Collector,
}

/// Where it asks for a place.
pub const MEDIA: &str = "/api/public/media";

impl Langfuse {
    /// Takes everything.
    pub fn kind() -> Langfuse {
        Langfuse::start(|_| None, |_| None)
    }

    /// Both sides answer by script; `None` is the answer of one that takes everything.
    pub fn start(
        mut api: impl FnMut(&Seen) -> Option<Reply> + Send + 'static,
        mut store: impl FnMut(&Seen) -> Option<Reply> + Send + 'static,
    ) -> Langfuse {
        let store = Collector::start(move |seen| store(seen).unwrap_or(Reply::Status(200)));
        let place = store.url().to_string();
        let api = Collector::start(move |seen| api(seen).unwrap_or_else(|| usual(seen, &place)));
        Langfuse { api, store }
    }

    /// The same, with no thread but the two that are made here.
    pub fn with_two_threads() -> Langfuse {
        let store = Collector::with_one_thread(|_| Reply::Status(200));
        let place = store.url().to_string();
        Langfuse { api: Collector::with_one_thread(move |seen| usual(seen, &place)), store }
    }

    /// The API answers by this script, the storage takes everything.
    pub fn answering(api: impl FnMut(&Seen) -> Option<Reply> + Send + 'static) -> Langfuse {
        Langfuse::start(api, |_| None)
    }

    pub fn endpoint(&self) -> String {
        format!("{}/api/public/ingestion", self.api.url())
    }

    /// What it was asked, as methods; the storage's are not among them.
    pub fn methods(&self) -> Vec<String> {
        methods(&self.api)
    }

    /// The bodies that the storage got.
    pub fn stored(&self) -> Vec<Vec<u8>> {
        self.store.requests().into_iter().map(|seen| seen.body).collect()
    }
}

/// The methods of a collector's requests, in order.
pub fn methods(collector: &Collector) -> Vec<String> {
    let first = |seen: &Seen| seen.request_line().split(' ').next().unwrap().to_string();
    collector.requests().iter().map(first).collect()
}

/// What a server says that takes everything: a place of its own to each question.
pub fn usual(seen: &Seen, place: &str) -> Reply {
    if !seen.request_line().starts_with("POST ") || !seen.request_line().contains(MEDIA) {
        return Reply::Status(200);
    }
    let id = id_of(seen);
    asked(&id, json!(format!("{place}/bucket/{id}?n={}&X-Signature=a%2Fb", seen.number)))
}

/// The answer to a question for a place.
pub fn asked(id: &str, place: serde_json::Value) -> Reply {
    Reply::Full(201, String::new(), json!({"mediaId": id, "uploadUrl": place}).to_string())
}

/// The id that the question's hash makes.
pub fn id_of(seen: &Seen) -> String {
    let hash = seen.json()["sha256Hash"].as_str().unwrap().replace('+', "-").replace('/', "_");
    hash[..22].to_string()
}

/// What an upload of the tests says about itself.
pub fn meta() -> String {
    json!({"contentType": "image/png", "field": "input", "traceId": "t1", "observationId": "o1"}).to_string()
}

/// Taken; its id.
pub fn upload(client: &Client, data: impl AsRef<[u8]>) -> String {
    let id = client.upload(&meta(), Some(data.as_ref())).unwrap();
    String::from_utf8(id.to_vec()).unwrap()
}
