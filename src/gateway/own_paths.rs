//! Requests to the hub's own paths: their bodies are received whole, within a bound, and their answers
//! made by the control plane.

use std::future::Future;

use crate::gateway::Control;
use crate::gateway::access::is_control_path;
use crate::gateway::connection::{BodyFault, Connection, Next, after, exceeds};
use crate::gateway::input::ReadDone;
use crate::gateway::output::Manner;
use crate::gateway::problem::Problem;
use crate::gateway::receiver::Receiver;
use crate::http::{CONTINUE, ChunkDecoder, ChunkStep};
use crate::limits::MAX_CONTROL_BODY;
use crate::message::BodyLength;

impl<F: Future<Output = ReadDone>> Connection<'_, F> {
    /// Answers a request to one of the hub's own paths.
    pub(super) async fn control(
        &mut self,
        path: &str,
        mut manner: Manner,
        body: BodyLength,
        expects_continue: bool,
    ) -> Next {
        let mut bytes = Vec::new();
        // Only who may control the hub can have it keep a body.
        let taken = match is_control_path(path.as_bytes()) {
            true => body,
            false => BodyLength::None,
        };
        manner.keep_alive &= taken == body;
        // Who has announced too much is told so, and not to go on.
        let too_long =
            matches!(taken, BodyLength::Known(length) if length > MAX_CONTROL_BODY as u64);
        if expects_continue
            && taken != BodyLength::None
            && !too_long
            && self.input.buffered().is_empty()
            && self.output.send_raw(CONTINUE).await.is_err()
        {
            return Next::Drop;
        }
        let received = self.read_whole(taken, &mut bytes).await;
        self.input.expect_soon(self.brisk);
        if let Err(fault) = received {
            manner.keep_alive = false;
            let Some(problem) = fault.problem() else {
                return Next::Drop;
            };
            return self.refuse(problem, manner).await;
        }
        let answer = match self.shard.control.control(manner.method, path, &mut bytes) {
            Control::Answer(answer) => answer,
            Control::Publish(publication) => {
                let published = self.shard.publish(publication.clone()).await;
                self.shard.control.published(&publication, &published)
            }
            Control::Later => self.shard.control_later(path, bytes).await,
        };
        let mut fields = vec![
            ("content-type", answer.content_type),
            ("cache-control", "no-store"),
        ];
        fields.extend(answer.allow.map(|allow| ("allow", allow)));
        let sent = self
            .output
            .send_long(answer.status, &fields, answer.body, manner)
            .await;
        match sent {
            Some(sent) => after(sent, manner),
            None => self.refuse(Problem::too_much_unread(), manner).await,
        }
    }

    /// Receives a whole body of at most [`MAX_CONTROL_BODY`] bytes.
    async fn read_whole(&mut self, body: BodyLength, out: &mut Vec<u8>) -> Result<(), BodyFault> {
        const LIMIT: u64 = MAX_CONTROL_BODY as u64;
        let mut decoder = ChunkDecoder::default();
        let clients = &self.shard.config.clients;
        let mut receiver = Receiver::new(&self.entered.watch, &self.shard.clock, clients, 0);
        self.input.expect_much();
        loop {
            let buffered = self.input.buffered();
            match body {
                BodyLength::None => return Ok(()),
                BodyLength::Known(length) if length > LIMIT => {
                    return Err(BodyFault::TooLong(LIMIT));
                }
                BodyLength::Known(length) => {
                    let part = buffered.len().min(length as usize - out.len());
                    out.extend_from_slice(&buffered[..part]);
                    self.input.consume(part);
                    if out.len() as u64 == length {
                        return Ok(());
                    }
                }
                BodyLength::Chunked => match decoder.advance(buffered).map_err(BodyFault::Http)? {
                    ChunkStep::Data(range) => {
                        let end = range.end;
                        out.extend_from_slice(&buffered[range]);
                        self.input.consume(end);
                        if exceeds(LIMIT, out.len() as u64, &decoder) {
                            return Err(BodyFault::TooLong(LIMIT));
                        }
                        continue;
                    }
                    ChunkStep::End(end) => {
                        self.input.consume(end);
                        return Ok(());
                    }
                    ChunkStep::NeedMore => {
                        let all = buffered.len();
                        self.input.consume(all);
                        if exceeds(LIMIT, out.len() as u64, &decoder) {
                            return Err(BodyFault::TooLong(LIMIT));
                        }
                    }
                },
            }
            receiver.fill(&mut self.input).await?;
        }
    }
}
