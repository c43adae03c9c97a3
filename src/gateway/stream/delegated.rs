//! Connections to routes that workers delegate: announced, accepted, inherited by a worker's
//! successor, and ended, of which the worker that knows them is told exactly once.

use crate::gateway::shard::Command;
use crate::gateway::stream::fanout::Fanout;
use crate::gateway::stream::subscriber::{Delegated, Feed};
use crate::gateway::stream::{Announced, Client, Incarnation, Inheritance, News, Notice, Workers};

impl Fanout {
    /// A worker is being asked whether it accepts a connection; what it sends meanwhile waits.
    pub fn announce(&mut self, announced: Announced) {
        let Announced {
            number,
            path,
            reading,
            options,
            worker,
            shard,
            request,
        } = announced;
        let policy = options.slow.unwrap_or(self.config.slow);
        let mut queue = self.queue(policy, &reading, options.replay);
        let path = self.paths.known(&path).unwrap_or_else(|| path.into());
        let feed = Feed::Path(Box::new(Delegated {
            number,
            path: path.clone(),
            options,
            worker,
            shard,
            request,
            accepted_ms: None,
            orphan_since_ms: None,
            asked: false,
        }));
        if options.replay {
            let last = reading.last_event_id.as_deref();
            self.go_on_path(&mut queue, &path, last, &feed);
        }
        let key = self.enter(queue, feed, reading.chunked);
        self.numbers.insert(number, key);
    }

    /// The worker has accepted it.
    pub fn accept(&mut self, number: u64, client: Client) {
        let now_ms = self.now_ms;
        let Some((key, delegated)) = self.delegated(number) else {
            return;
        };
        delegated.accepted_ms = Some(now_ms);
        let worker = delegated.worker.clone();
        self.connect(key, client);
        // The worker may have been followed by another while the answer was on its way.
        if self.workers.get(&worker.name) != Some(&worker.attach) {
            self.orphan(key);
        }
        if self.subscribers.get(key).is_some_and(|s| s.doomed) {
            self.close(key);
        }
    }

    /// The worker has not accepted it.
    pub fn withdraw(&mut self, number: u64) {
        if let Some(&key) = self.numbers.get(&number) {
            self.close(key);
        }
    }

    /// The worker was told of a connection's end.
    pub fn told(&mut self, number: u64) {
        self.closing.remove(number);
    }

    /// Sends a worker news, through the shard the connection came from.
    fn send(&self, shard: usize, notice: Notice) {
        self.shards[shard].send(Command::Notify(Box::new(notice)));
    }

    /// Takes note of which workers are attached. Connections of one that is gone wait for its
    /// successor; those of one that was followed are shown to the successor, all at once.
    pub fn set_workers(&mut self, Workers { routes, attached }: Workers) {
        self.routes = routes;
        self.edition += 1;
        self.workers = attached.into_iter().map(|w| (w.name, w.attach)).collect();
        let workers = &self.workers;
        let strange = |feed: &Feed| match feed {
            Feed::Path(d) if d.accepted_ms.is_some() => {
                workers.get(&d.worker.name) != Some(&d.worker.attach)
            }
            _ => false,
        };
        let concerned: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, s)| !s.closed && strange(&s.feed))
            .map(|(key, _)| key)
            .collect();
        concerned.into_iter().for_each(|key| self.orphan(key));
    }

    /// A worker's successor has said whether it takes a connection.
    pub fn inherited(&mut self, number: u64, worker: Incarnation, outcome: Inheritance) {
        let Some((key, delegated)) = self.delegated(number) else {
            // It ended while the successor was asked.
            match (self.closing.release(number, &worker), outcome) {
                (Some((shard, notice)), Inheritance::Taken) => self.send(shard, notice),
                (Some(_), _) => self.told(number),
                (None, _) => {}
            }
            return;
        };
        if delegated.worker != worker {
            return;
        }
        match outcome {
            Inheritance::Taken => {
                delegated.orphan_since_ms = None;
                delegated.asked = false;
            }
            Inheritance::Refused => {
                delegated.accepted_ms = None;
                self.close(key);
            }
            // It dies, of which the registry may not have heard yet: the next one is asked.
            Inheritance::Unanswered => delegated.asked = false,
        }
    }

    /// Closes what has waited too long for a worker.
    pub fn drop_orphans(&mut self) {
        let (now_ms, patience_ms) = (self.now_ms, self.config.orphan_timeout_ms);
        let overdue = |feed: &Feed| match feed {
            Feed::Path(d) => d
                .orphan_since_ms
                .is_some_and(|at| now_ms >= at + patience_ms),
            _ => false,
        };
        let overdue: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, s)| !s.closed && overdue(&s.feed))
            .map(|(key, _)| key)
            .collect();
        overdue.into_iter().for_each(|key| self.close(key));
    }

    /// A delegated connection has left: its worker is told, if it knows of it and is still there.
    pub(super) fn forget_delegated(&mut self, key: usize) {
        let Feed::Path(delegated) = &self.subscribers[key].feed else {
            return;
        };
        self.numbers.remove(&delegated.number);
        let Some(accepted_ms) = delegated.accepted_ms else {
            return;
        };
        let worker = &delegated.worker;
        let is_present = self.workers.get(&worker.name) == Some(&worker.attach);
        let knows_of_it = delegated.orphan_since_ms.is_none() || delegated.asked;
        if !is_present || !knows_of_it {
            return;
        }
        let notice = Notice {
            number: delegated.number,
            worker: worker.clone(),
            request: delegated.request.clone(),
            news: News::Ended(self.now_ms - accepted_ms),
        };
        let (shard, path) = (delegated.shard, delegated.path.clone());
        let name = worker.name.clone();
        // A successor that has not said whether it takes the connection is not told of its end before.
        let held_back = if delegated.asked {
            Some((shard, notice))
        } else {
            self.send(shard, notice);
            None
        };
        let number = delegated.number;
        self.closing.insert(number, path, name, held_back);
    }

    /// A connection's worker is not the present one: the present one is shown it, or it waits.
    fn orphan(&mut self, key: usize) {
        let now_ms = self.now_ms;
        let subscriber = self.subscribers.get_mut(key);
        let Some(Feed::Path(delegated)) = subscriber.map(|s| &mut s.feed) else {
            return;
        };
        delegated.orphan_since_ms.get_or_insert(now_ms);
        let Some(&attach) = self.workers.get(&delegated.worker.name) else {
            return;
        };
        delegated.worker.attach = attach;
        delegated.asked = true;
        let shard = delegated.shard;
        let notice = Notice {
            number: delegated.number,
            worker: delegated.worker.clone(),
            request: delegated.request.clone(),
            news: News::Inherited,
        };
        self.send(shard, notice);
    }

    fn delegated(&mut self, number: u64) -> Option<(usize, &mut Delegated)> {
        let key = *self.numbers.get(&number)?;
        match &mut self.subscribers[key].feed {
            Feed::Path(delegated) => Some((key, delegated)),
            _ => None,
        }
    }
}
