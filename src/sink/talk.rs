//! One request and its answer on an open connection.
//!
//! Invariants:
//! - We listen while we send. A server that refuses a batch for its size answers early and stops reading; its
//!   answer counts, not our broken pipe. An early 2xx does not stop the sending: such a server reads on; if it does
//!   not, its answer is as good as one that broke off.
//! - Once the head of the answer is here, a body that breaks off is an answer with `truncated`, not an error;
//!   the sender has the status, which is what decides.
//! - What is kept of an answer is bounded by the limit, and what is kept of a head by `HEAD_MAX`.
#![forbid(unsafe_code)]

use super::Response;
use super::http1::{self, BodyReader, HEAD_MAX, Head};
use super::transport::{Fail, Wire};
use std::time::Instant;

/// See the module's text.
pub struct Talk<'a> {
    wire: &'a mut Wire,
    deadline: Instant,
    limit: usize,
    input: Vec<u8>,
    head: Option<Head>,
    /// Something of the request was handed on.
    pub sent: bool,
    /// Something of an answer came.
    pub answered: bool,
    /// The end of the connection was the end of the answer.
    pub ended_by_close: bool,
}

enum Sending {
    All,
    /// The server has answered already.
    Enough,
    /// It failed; there may still be an answer to read.
    Failed(Fail),
}

impl<'a> Talk<'a> {
    /// Bodies of answers are kept up to `limit` bytes.
    pub fn new(wire: &'a mut Wire, deadline: Instant, limit: usize) -> Talk<'a> {
        Talk {
            wire,
            deadline,
            limit,
            input: Vec::new(),
            head: None,
            sent: false,
            answered: false,
            ended_by_close: false,
        }
    }

    /// Send, and read the answer. The flag says whether the connection can carry another request.
    pub fn run(&mut self, head: &[u8], body: &[u8]) -> Result<(Response, bool), Fail> {
        let mut sending = self.send(head)?;
        if matches!(sending, Sending::All) && !body.is_empty() {
            sending = self.send(body)?;
        }
        let complete = matches!(sending, Sending::All);
        while self.head.is_none() {
            let fail = match self.wire.pull_into(&mut self.input, self.deadline) {
                Ok(None) => {
                    self.wire.wait(false, self.deadline)?;
                    continue;
                }
                Ok(Some(0)) => Fail::Closed,
                Ok(Some(_)) => {
                    self.answered = true;
                    self.head = final_head(&mut self.input)?;
                    continue;
                }
                Err(fail) => fail,
            };
            // Why we could not send says more than that there is nothing to read.
            return Err(if let Sending::Failed(first) = sending { first } else { fail });
        }
        let Some(head) = self.head.take() else { return Err(Fail::Closed) };
        let mut reader = BodyReader::new(head.framing, self.limit);
        let clean = self.read(&mut reader);
        self.ended_by_close = !reader.is_done() && !reader.overflow;
        let truncated = !clean || reader.overflow || (!complete && head.status < 300);
        let reusable = complete && head.keep && !truncated && self.input.is_empty();
        let response = Response { status: head.status, headers: head.headers, body: reader.bytes, truncated };
        Ok((response, reusable))
    }

    fn send(&mut self, part: &[u8]) -> Result<Sending, Fail> {
        let mut at = 0;
        loop {
            let step = if at < part.len() {
                self.wire.push(&part[at..])
            } else {
                self.wire.flush().map(|f| f.then_some(0))
            };
            match step {
                Ok(Some(_)) if at == part.len() => return Ok(Sending::All),
                Ok(Some(n)) => {
                    self.sent = true;
                    at += n;
                    continue;
                }
                Ok(None) => {}
                Err(fail) => return Ok(Sending::Failed(fail)),
            }
            // A server that answers and answers while it should listen is left with a full pipe.
            if self.input.len() > self.limit + HEAD_MAX {
                self.wire.wait_write(self.deadline)?;
                continue;
            }
            self.wire.wait(true, self.deadline)?;
            match self.wire.pull_into(&mut self.input, self.deadline) {
                Ok(None) => {}
                Ok(Some(0)) => return Ok(Sending::Failed(Fail::Closed)),
                Ok(Some(_)) => {
                    self.answered = true;
                    if self.head.is_none() {
                        self.head = final_head(&mut self.input)?;
                    }
                    if self.head.as_ref().is_some_and(|h| h.status >= 300) {
                        return Ok(Sending::Enough);
                    }
                }
                Err(fail) => return Ok(Sending::Failed(fail)),
            }
        }
    }

    /// Read the body; whether all of it came. What follows it stays in `input`.
    fn read(&mut self, reader: &mut BodyReader) -> bool {
        loop {
            match reader.feed(&self.input) {
                Ok(used) => drop(self.input.drain(..used)),
                Err(_) => return false,
            }
            if reader.is_done() {
                return true;
            }
            if reader.overflow {
                return false;
            }
            match self.wire.pull_into(&mut self.input, self.deadline) {
                Ok(None) => match self.wire.wait(false, self.deadline) {
                    Ok(()) => {}
                    Err(_) => return false,
                },
                Ok(Some(0)) => return reader.ends_with_connection() && !self.wire.unclean_end,
                Ok(Some(_)) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Take the head of the final answer out of `input`, past any 1xx.
pub fn final_head(input: &mut Vec<u8>) -> Result<Option<Head>, Fail> {
    while let Some((head, length)) = http1::parse_head(input).map_err(Fail::Protocol)? {
        input.drain(..length);
        match head.status {
            101 => return Err(Fail::Protocol("the server switched to another protocol".into())),
            100..=199 => {}
            _ => return Ok(Some(head)),
        }
    }
    Ok(None)
}
