//! The map, the log and the call, and one session machine a side.
//!
//! All of it is sans-IO: events and the present moment go in, messages and writes come out. Nothing
//! here opens a socket, reads a clock or draws a random number that was not seeded from outside.
//!
//! | machine | agent | hub |
//! |---|---|---|
//! | session | [`AgentSession`] opens and greets | [`HubSession`] answers |
//! | desired state | [`MapReceiver`] | [`MapPublisher`] |
//! | reported state | [`MapPublisher`] | [`MapReceiver`] |
//! | events, telemetry | [`Outbox`] | [`LogReceiver`] |
//! | calls | answers at once | [`Calls`] keeps their deadlines |
//! | bytes of the link | [`Budget`] | |

mod agent_session;
mod budget;
mod call;
mod edit;
mod hub_session;
mod log_receiver;
mod map_content;
mod map_publisher;
mod map_receiver;
mod outbox;
mod outbox_log;
mod retry;

pub use agent_session::{AgentSession, Outgoing, SessionFault};
pub use budget::{Budget, LinkClass, SpentByClass, StoredBudget, message_bytes};
pub use call::{CallEnded, Calls, TooManyCalls};
pub use hub_session::{HubSession, Opened};
pub use log_receiver::{LOGS_MAX, LogReceiver, ReceivedRecords, count_in, push_number};
pub use map_content::MapContent;
pub use map_publisher::{Chunking, FRUGAL_CHUNK_BYTES, MapPublisher, UNASKED_CHUNK_BYTES};
pub use map_receiver::{MapReceiver, PreparedUpdate, Received};
pub use outbox::{
    LogRead, Outbox, OutboxQuota, RecordTooLarge, StreamTotals, newest_incarnation, outbox_key,
    read_log, read_pack,
};
pub use outbox_log::LogMeta;
pub use retry::Retry;
