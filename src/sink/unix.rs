//! `http+unix://`: HTTP/1.1 over a unix socket. The same chain as TCP, but for the address.
//!
//! No name is looked up, no proxy applies, and `Host` is `localhost`. A path that does not fit into a socket
//! address (about a hundred bytes) is refused at open.
#![forbid(unsafe_code)]

use super::SinkConfig;
use super::http::HttpSink;
use super::url::Url;
use crate::platform::sockets::SocketTable;
use std::path::Path;
use std::sync::Arc;

/// Check the configuration; opens nothing.
pub fn open(
    socket: &Path,
    path: &str,
    config: &SinkConfig,
    table: Arc<SocketTable>,
) -> Result<HttpSink, String> {
    if !socket.is_absolute() {
        // The working directory of a server changes when it becomes a daemon.
        return Err(format!("{}: the path of a unix socket must be absolute", socket.display()));
    }
    socket2::SockAddr::unix(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = Url::parse(&format!("http://localhost{slash}{path}"))?;
    HttpSink::new(url, Some(socket.to_path_buf()), config, table)
}
