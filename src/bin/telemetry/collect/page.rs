//! The live page: one HTML file without anything from elsewhere, fed by `GET /stats` each second.

use super::http::Answer;

/// The page.
pub fn answer() -> Answer {
    Answer {
        status: 200,
        kind: "text/html; charset=utf-8",
        extra: Vec::new(),
        body: include_bytes!("page.html").to_vec(),
    }
}
