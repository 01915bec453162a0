//! What the operating system gives us, each thing behind a small safe name. The bottom room: it imports no other.
pub mod poll;
pub mod sockets;
