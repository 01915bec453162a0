//! Uploads: what the caller says about one, its identity, and where it waits.
//!
//! Invariants:
//! - The id is made of the content alone (the first 22 characters of its SHA-256 in URL-safe base64), so it is known before
//!   anything is sent and the same wherever it is computed.
//! - What is given to the queue is complete: a file named in the meta is read here, once, so that what is sent is what was
//!   hashed.
//! - Nothing here touches the queue of events; an upload that finds no room loses nothing else.
//! - An upload is kept with signals held back, and only in the generation that it was made in: a fork finds it kept or not
//!   begun, and a child that returns into this call begins again with the caller's own data.

use super::handle::{CLOSED, Client, DEAD, DISABLED, Status};
use crate::delivery::counters::add;
use crate::platform::clock;
use crate::platform::log::{Level, Reason, say};
use crate::platform::thread::unsignalled;
use crate::queue::media::files::room_taken;
use crate::queue::media::image::{Image, MAX_NOTE, footprint};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD as STANDARD, BASE64_URL_SAFE as URL_SAFE};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Characters of an id.
pub const ID_LEN: usize = 22;

/// Why an upload was not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The kind of reason.
    pub status: Status,
    /// The reason.
    pub why: Cow<'static, str>,
}

fn refused<T>(status: Status, why: impl Into<Cow<'static, str>>) -> Result<T, Refused> {
    Err(Refused { status, why: why.into() })
}

/// What the caller said about an upload.
#[derive(Debug)]
struct Meta {
    /// What the server is told, but for length and hash.
    note: Map<String, Value>,
    /// Where the content is, if it was not given.
    file: Option<PathBuf>,
}

impl Client {
    /// Take an upload: `data`, or the file that `meta` names. Gives its id.
    pub fn upload(&self, meta: &str, data: Option<&[u8]>) -> Result<[u8; ID_LEN], Refused> {
        let flags = self.flags.load(Ordering::SeqCst);
        if flags & DEAD != 0 {
            return refused(Status::Internal, "the client is dead");
        }
        if flags & CLOSED != 0 {
            return refused(Status::Closed, "the client was shut down");
        }
        if flags & DISABLED != 0 {
            let Meta { mut note, file } = read_meta(meta)?;
            return Ok(self.make(&mut note, file.as_ref(), data)?.1);
        }
        // Before anything is allocated: after a raw clone the heap cannot be used until this is done.
        let mut generation = self.enter();
        if self.settings.media.is_none() {
            let name = &self.settings.name;
            return refused(
                Status::Invalid,
                format!(
                    "{name} takes no uploads; allowed: an endpoint of Langfuse, with /api/public/ in its path"
                ),
            );
        }
        let Meta { mut note, file } = read_meta(meta)?;
        loop {
            let Some(mine) = generation else { return refused(Status::Full, "no memory for the queue") };
            let (image, id) = self.make(&mut note, file.as_ref(), data)?;
            if unsignalled(|| self.keep(mine, image))? {
                self.attend_upload();
                return Ok(id);
            }
            generation = self.enter();
        }
    }

    /// The sealed image and its id.
    fn make(
        &self,
        note: &mut Map<String, Value>,
        file: Option<&PathBuf>,
        data: Option<&[u8]>,
    ) -> Result<(Image, [u8; ID_LEN]), Refused> {
        let mut image = self.image_of(file, data)?;
        let hash = digest(&SHA256, image.data());
        note.insert("contentLength".into(), image.data().len().into());
        note.insert("sha256Hash".into(), STANDARD.encode(hash).into());
        let text = serde_json::to_vec(note).unwrap_or_default();
        if text.len() > MAX_NOTE {
            return refused(Status::Invalid, format!("the meta is longer than {MAX_NOTE} bytes"));
        }
        image.seal(&text, clock::wall_precise_ns());
        let mut id = [0; ID_LEN];
        id.iter_mut().zip(URL_SAFE.encode(hash).bytes()).for_each(|(to, from)| *to = from);
        Ok((image, id))
    }

    /// Put it where it waits. `false`: the process forked under the call, and this is the child, which has to begin again.
    /// No signal may come meanwhile.
    fn keep(&self, generation: u64, image: Image) -> Result<bool, Refused> {
        if self.generation() != Some(generation) {
            return Ok(false);
        }
        if self.flags.load(Ordering::SeqCst) & CLOSED != 0 {
            return refused(Status::Closed, "the client was shut down");
        }
        let (media, room) = (&self.control().media, self.media_room as u64);
        let len = footprint(image.len() as u64);
        if !media.reserve(len, room) {
            return self.no_room();
        }
        match self.write_upload(generation, &image, len) {
            Ok(true) => {
                media.release(len);
                media.wrote();
            }
            Ok(false) => media.push(image),
            Err(why) => {
                media.release(len);
                return Err(why);
            }
        }
        add(&self.control().counters.uploads, 1);
        Ok(true)
    }

    /// Into the spool. `false`: there is none that can be used. Room for it is reserved; what lies in the directory comes on top.
    fn write_upload(&self, generation: u64, image: &Image, len: u64) -> Result<bool, Refused> {
        let Some(spec) = &self.spool else { return Ok(false) };
        // Before the directory is listed: what is on its way now is seen here or there, whatever becomes of it.
        let under_way = self.control().media.bytes.load(Ordering::Acquire).saturating_sub(len);
        let taken = spec.dir.enter().map_err(|why| why.to_string()).and_then(|()| {
            let listing = spec.dir.list().map_err(|why| why.to_string())?;
            Ok(room_taken(&listing))
        });
        let written = taken.and_then(|taken| {
            let others = under_way.saturating_add(taken);
            if others > 0 && others.saturating_add(len) > self.media_room as u64 {
                return Ok(false);
            }
            let written = spec.shelf(generation).write(image, self.settings.spool.sync);
            written.map(|()| true).map_err(|why| why.to_string())
        });
        match written {
            Ok(true) => Ok(true),
            Ok(false) => self.no_room(),
            Err(why) => {
                self.control().store.failures.fetch_add(1, Ordering::Relaxed);
                let dir = spec.dir.path().display();
                let text = format!("an upload waits in memory: the spool {dir} cannot be used: {why}");
                say(Level::Warn, Reason::Spool, &text);
                Ok(false)
            }
        }
    }

    fn no_room<T>(&self) -> Result<T, Refused> {
        add(&self.control().counters.dropped_full, 1);
        let text = "media_max_bytes is used up; uploads are refused and counted (dropped_full)";
        say(Level::Warn, Reason::Full, text);
        refused(Status::Full, "media_max_bytes is used up")
    }

    fn image_of(&self, file: Option<&PathBuf>, data: Option<&[u8]>) -> Result<Image, Refused> {
        let blank = |len: u64| {
            self.check_size(len)?;
            let image = Image::new(len as usize, self.page.is_wiped());
            image.map_err(|why| Refused { status: Status::Io, why: format!("no memory: {why}").into() })
        };
        match (file, data) {
            (Some(_), Some(_)) => {
                refused(Status::Invalid, "both data and meta.file are given; allowed: one of them")
            }
            (None, None) => refused(Status::Invalid, "neither data nor meta.file is given"),
            (None, Some([])) => refused(Status::Invalid, "the data is empty"),
            (None, Some(data)) => {
                let mut image = blank(data.len() as u64)?;
                image.data_mut().copy_from_slice(data);
                Ok(image)
            }
            (Some(path), None) => {
                let shown = format!("{:?}", path.display().to_string());
                let io = |why: std::io::Error| Refused {
                    status: Status::Invalid,
                    why: format!("meta.file is {shown}: {why}; allowed: a regular file that can be read")
                        .into(),
                };
                let mut how = File::options();
                // Opening somebody's pipe must not wait for its writer.
                let file =
                    how.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(io)?;
                let about = file.metadata().map_err(io)?;
                if !about.is_file() || about.len() == 0 {
                    return Err(io(std::io::Error::other("no regular file, or empty")));
                }
                let mut image = blank(about.len())?;
                // By place: a child that was forked meanwhile has the same file, and would move a common position.
                file.read_exact_at(image.data_mut(), 0).map_err(io)?;
                Ok(image)
            }
        }
    }

    fn check_size(&self, len: u64) -> Result<(), Refused> {
        let room = self.media_room as u64;
        if len <= room {
            return Ok(());
        }
        if self.flags.load(Ordering::Relaxed) & DISABLED == 0 {
            add(&self.control().counters.dropped_too_large, 1);
        }
        refused(Status::TooLarge, format!("{len} bytes are more than media_max_bytes allows ({room})"))
    }
}

/// Check what the caller said, and name what is wrong.
fn read_meta(text: &str) -> Result<Meta, Refused> {
    const KNOWN: [&str; 7] =
        ["contentType", "field", "traceId", "observationId", "datasetId", "datasetItemId", "file"];
    let bad = |why: String| refused(Status::Invalid, why);
    let Ok(Value::Object(mut note)) = serde_json::from_str(text) else {
        return bad("the meta is not one JSON object".into());
    };
    note.retain(|_, value| !value.is_null());
    for (name, value) in &note {
        if !KNOWN.contains(&name.as_str()) {
            return bad(format!("meta.{name} is not known; allowed: {}", KNOWN.join(", ")));
        }
        if value.as_str().is_none_or(str::is_empty) {
            return bad(format!("meta.{name} is {value}; allowed: a string that is not empty"));
        }
    }
    let has = |name: &str| note.contains_key(name);
    let word = |name: &str| note.get(name).and_then(Value::as_str).unwrap_or_default();
    // It becomes a header.
    let kind = word("contentType");
    let visible = kind.bytes().all(|b| (0x20..0x7f).contains(&b)) && kind.trim() == kind;
    if !has("contentType") || !visible || !kind.contains('/') {
        let shown = note.get("contentType").map_or("missing".to_string(), Value::to_string);
        return bad(format!("meta.contentType is {shown}; allowed: a media type such as image/png"));
    }
    let fields: &[&str] = match (has("traceId"), has("datasetId"), has("datasetItemId")) {
        (true, false, false) => &["input", "output", "metadata"],
        (false, true, true) if !has("observationId") => &["input", "expectedOutput", "metadata"],
        _ => {
            return bad(
                "meta names no place; allowed: traceId, with observationId if there is one, or datasetId and \
                 datasetItemId"
                    .into(),
            );
        }
    };
    if !fields.contains(&word("field")) {
        let shown = note.get("field").map_or("missing".to_string(), Value::to_string);
        return bad(format!("meta.field is {shown}; allowed: {}", fields.join(", ")));
    }
    let file = note.remove("file").and_then(|path| path.as_str().map(PathBuf::from));
    Ok(Meta { note, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_is_checked() {
        let good = |text: &str| read_meta(text).unwrap();
        let meta = good(
            r#"{"contentType":"image/png","field":"input","traceId":"t","observationId":null,"file":"/x"}"#,
        );
        assert_eq!(meta.file, Some("/x".into()));
        assert_eq!(
            Value::Object(meta.note).to_string(),
            r#"{"contentType":"image/png","field":"input","traceId":"t"}"#
        );
        good(r#"{"contentType":"a/b","field":"expectedOutput","datasetId":"d","datasetItemId":"i"}"#);
        for (text, part) in [
            ("", "JSON object"),
            ("[]", "JSON object"),
            (r#"{"contentTyp":"a/b"}"#, "meta.contentTyp is not known; allowed: contentType"),
            (r#"{"field":"input","traceId":"t"}"#, "meta.contentType is missing"),
            (r#"{"contentType":"a/\nb","field":"input","traceId":"t"}"#, "meta.contentType is \"a/\\nb\""),
            (r#"{"contentType":"png","field":"input","traceId":"t"}"#, "a media type such as image/png"),
            (r#"{"contentType":" a/b","field":"input","traceId":"t"}"#, "meta.contentType is \" a/b\""),
            (
                r#"{"contentType":"a/b","field":"inputs","traceId":"t"}"#,
                "meta.field is \"inputs\"; allowed: input, output",
            ),
            (
                r#"{"contentType":"a/b","field":"output","datasetId":"d","datasetItemId":"i"}"#,
                "expectedOutput",
            ),
            (r#"{"contentType":"a/b","field":"input"}"#, "allowed: traceId"),
            (r#"{"contentType":"a/b","field":"input","traceId":"t","datasetId":"d"}"#, "allowed: traceId"),
            (r#"{"contentType":"a/b","field":"input","traceId":7}"#, "meta.traceId is 7; allowed: a string"),
        ] {
            let refused = read_meta(text).unwrap_err();
            assert!(
                refused.why.contains(part) && refused.status == Status::Invalid,
                "{text}: {}",
                refused.why
            );
        }
    }
}
