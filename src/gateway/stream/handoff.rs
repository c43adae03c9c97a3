//! How a connection leaves its shard: the head of the stream's response is made, the socket is
//! duplicated, and the streams thread goes on with it. A worker that delegates the route is asked
//! first.

use std::future::Future;
use std::sync::Arc;

use crate::gateway::connection::{Connection, Next};
use crate::gateway::input::ReadDone;
use crate::gateway::lane::{Failure, Lane};
use crate::gateway::output::Manner;
use crate::gateway::problem::Problem;
use crate::gateway::stream::connect::Word;
use crate::gateway::stream::converse::Said;
use crate::gateway::stream::{
    Announced, Client, News, Notice, Reading, StreamRequest, ToStreams, Wanted,
};
use crate::http::{BodyFraming, HeadBounds, WorkerHeadFault};
use crate::message::Version;

/// What makes a response an event stream that proxies leave alone.
const STREAM_FIELDS: &[u8] = b"content-type: text/event-stream\r\n\
cache-control: no-cache, no-transform\r\n\
x-accel-buffering: no\r\n";
/// Fields of a worker's answer that the hub's own take the place of.
const REPLACED: [&str; 3] = ["content-type", "cache-control", "x-accel-buffering"];

impl<F: Future<Output = ReadDone>> Connection<'_, F> {
    /// Makes a client of `/events` a subscriber.
    pub(crate) async fn subscribe(
        &mut self,
        wanted: Wanted,
        last_event_id: Option<String>,
        manner: Manner,
    ) -> Next {
        let reading = reading(manner, last_event_id);
        let Ok(head) = self.stream_head(b"", manner) else {
            return Next::Drop;
        };
        let Some(client) = self.leave(head) else {
            return self.refuse(Problem::no_place(), manner).await;
        };
        let subscribe = ToStreams::Subscribe(Box::new(client), reading, wanted);
        self.shard.streams.send(subscribe);
        Next::Drop
    }

    /// Asks the worker of a delegated route, and hands the connection over if it accepts.
    pub(crate) async fn delegate(
        &mut self,
        bounds: HeadBounds,
        manner: Manner,
        worker: &str,
    ) -> Next {
        let request = StreamRequest {
            head: Arc::from(&self.input.buffered()[bounds.start..bounds.end]),
            peer: self.peer,
        };
        self.input.consume(bounds.end);
        let streams = self.shard.streams.clone();
        let number = streams.next_number();
        let Ok(shown) = self.shard.show(&request, number, Word::Connect) else {
            return self.refuse(Problem::no_worker(worker), manner).await;
        };
        streams.send(ToStreams::Announce(Box::new(Announced {
            number,
            path: shown.path.clone(),
            reading: reading(manner, shown.last_event_id.clone()),
            options: shown.route.options,
            worker: shown.lane.incarnation().clone(),
            shard: self.shard.index(),
            request: request.clone(),
        })));
        let lane = shown.lane.clone();
        self.entered.watch.keep_lane(lane.address());
        let said = self.shard.ask(shown, &request, number).await;
        if let Some(Said::Answer {
            status: 200,
            fields,
            ..
        }) = &said
        {
            match self.stream_head(fields, manner) {
                Ok(head) => {
                    // Where no descriptor is left, the worker hears of a connection that has ended.
                    let Some(client) = self.leave(head) else {
                        self.give_up(&lane, request, number);
                        return self.refuse(Problem::no_place(), manner).await;
                    };
                    streams.send(ToStreams::Accept(number, Box::new(client)));
                    return Next::Drop;
                }
                Err(fault) => {
                    let what = "an accepted stream has a head that is no HTTP";
                    self.shard.complain(&lane, what, fault);
                    lane.stats().count_violation();
                    self.give_up(&lane, request, number);
                    return self.refuse(Problem::bad_answer(worker), manner).await;
                }
            }
        }
        streams.send(ToStreams::Withdraw(number));
        match said {
            Some(Said::Answer {
                status,
                fields,
                body,
            }) => match self.output.send_answer(status, &fields, body, manner).await {
                Ok(Some(Ok(()))) if manner.keep_alive => Next::Stay,
                Ok(Some(Ok(()))) => Next::Close,
                Ok(Some(Err(_))) => Next::Drop,
                Ok(None) => self.refuse(Problem::too_much_unread(), manner).await,
                Err(fault) => {
                    let what = "a refused stream has a head that is no HTTP";
                    self.shard.complain(&lane, what, fault);
                    lane.stats().count_violation();
                    self.refuse(Problem::bad_answer(worker), manner).await
                }
            },
            Some(Said::Nonsense) => {
                lane.stats().count_violation();
                self.refuse(Problem::bad_answer(worker), manner).await
            }
            Some(Said::Gone) => {
                let problem = Problem::failed(Failure::WorkerGone, worker);
                self.refuse(problem, manner).await
            }
            None => self.refuse(Problem::connect_timeout(worker), manner).await,
        }
    }

    /// A worker has accepted what cannot be handed over: it hears that the connection has ended.
    fn give_up(&self, lane: &Lane, request: StreamRequest, number: u64) {
        self.shard.streams.send(ToStreams::Withdraw(number));
        self.shard.begin_notice(Notice {
            number,
            worker: lane.incarnation().clone(),
            request,
            news: News::Ended(0),
        });
    }

    fn stream_head(&self, fields: &[u8], manner: Manner) -> Result<Vec<u8>, WorkerHeadFault> {
        let framing = match manner.version {
            Version::Http11 => BodyFraming::Chunked,
            Version::Http10 => BodyFraming::UntilClose,
        };
        let mut section = STREAM_FIELDS.to_vec();
        let lines = fields.split_inclusive(|byte| *byte == b'\n');
        let is_replaced = |line: &[u8]| {
            REPLACED.iter().any(|name| {
                line.get(..name.len())
                    .is_some_and(|n| n.eq_ignore_ascii_case(name.as_bytes()))
                    && line.get(name.len()) == Some(&b':')
            })
        };
        lines
            .filter(|line| !is_replaced(line))
            .for_each(|line| section.extend_from_slice(line));
        // Nothing follows on this connection.
        let manner = Manner {
            keep_alive: false,
            ..manner
        };
        self.output.encode_head(200, &section, framing, manner)
    }

    /// The connection with its socket, for the streams thread; this one's part of it is closed.
    fn leave(&mut self, head: Vec<u8>) -> Option<Client> {
        let socket = self.entered.watch.duplicate().ok()?;
        // For a moment the connection is open twice.
        let place = self.shard.acceptor.connections().enter_beyond();
        Some(Client {
            socket,
            place,
            head,
        })
    }
}

fn reading(manner: Manner, last_event_id: Option<String>) -> Reading {
    Reading {
        chunked: manner.version == Version::Http11,
        last_event_id,
    }
}
