//! Three shards in one thread, over disks and sockets in memory, driven through the public API.

mod calls;
mod cluster;
mod creations;
mod fairness;
mod forgetting;
mod founding;
mod hand_over;
mod lines;
mod liveness;
mod long_ways;
mod machine;
mod machine_failure;
mod persist_before_reply;
mod protocol;
mod reads;
mod replies;
mod restart;
mod room;
mod strangers;
mod stop;
mod stuck;
mod wire;
