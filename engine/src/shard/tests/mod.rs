//! Three shards in one thread, over disks and sockets in memory, driven through the public API.

mod calls;
mod cluster;
mod liveness;
mod machine;
mod persist_before_reply;
mod protocol;
mod reads;
mod restart;
mod room;
mod stop;
mod wire;
