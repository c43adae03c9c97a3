//! Who has registered what, and the route table that follows. State and rules only: the time comes
//! in, and what is to be done about sockets, lanes and shards goes out.

use std::sync::Arc;

use uuid::Uuid;

use crate::control::{FieldError, RouteSpec, ValidRegistration, WorkerState};
use crate::gateway::stats::LaneStats;
use crate::gateway::stream::Incarnation;
use crate::gateway::{Routes, StreamRoute, Target};
use crate::hub::refusal::Refusal;
use crate::limits::{MAX_AWAITED, MAX_ROUTES_IN_ALL, MAX_WORKERS};
use crate::route::{InsertError, RouteTableBuilder};

/// Stands in a [`Target`] for a worker without a lane.
const NO_LANE: usize = usize::MAX;

/// One worker, from its registration until it is forgotten.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub id: String,
    /// What it registered; shared, for a copy of the registry is made at each change.
    pub registration: Arc<ValidRegistration>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Its process.
    pub pid: Option<u32>,
    /// Why it was thrown out, if it was.
    pub evicted: Option<String>,
    /// Which of all attaches it came with.
    pub attach: u64,
    /// The counters of its lanes, one for each shard.
    pub stats: Vec<Arc<LaneStats>>,
    /// When it was first registered, as a sequence number: first registered wins.
    order: u64,
    /// When it is forgotten, unless something happens before.
    expires_ms: u64,
    /// Shards that still have a lane to it.
    lanes_open: usize,
    /// Another has attached under its name: it has no routes any more, and does not count.
    superseded: bool,
}

/// Every worker the hub knows. A copy is cheap: what is large in it is shared.
#[derive(Clone, Debug)]
pub struct Registry {
    /// A worker keeps its index, which names its lanes in the shards, until it is forgotten.
    records: Vec<Option<Record>>,
    next_order: u64,
    /// Counts the changes after which the route table is another.
    edition: u64,
    remember_ms: u64,
    evictions: u64,
}

/// Who attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process.
    pub pid: u32,
    /// Which of all attaches this is.
    pub attach: u64,
}

/// What an attach has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached {
    /// The newcomer's index.
    pub index: usize,
    /// Its identity.
    pub id: String,
    /// The worker of the same name that it replaces.
    pub replaced: Option<usize>,
}

impl Registry {
    /// A registry without workers, which remembers a lost one for `remember_ms` milliseconds.
    pub fn new(remember_ms: u64) -> Registry {
        Registry {
            records: Vec::new(),
            next_order: 0,
            edition: 0,
            remember_ms,
            evictions: 0,
        }
    }

    /// A registration over HTTP. A worker of the same name goes on until the newcomer attaches.
    ///
    /// # Errors
    /// There are too many workers, registrations that nobody has attached to, or routes.
    pub fn register(&mut self, valid: ValidRegistration, now_ms: u64) -> Result<String, Refusal> {
        let waiting = self.find(&valid.name, |state| state == WorkerState::Registered);
        let gone = self.find(&valid.name, |state| state == WorkerState::Gone);
        self.check_routes(&valid, |r| {
            matches!(r.state, WorkerState::Registered | WorkerState::Gone)
        })?;
        let awaited = |r: &&Record| r.state == WorkerState::Registered;
        if waiting.is_none() && self.iter().filter(|(_, r)| awaited(r)).count() >= MAX_AWAITED {
            return Err(Refusal::full(format!(
                "{MAX_AWAITED} registrations wait for their workers already: let the workers attach, or wait until the oldest registration expires"
            )));
        }
        let place = waiting.or(gone.filter(|at| self.is_idle(*at)));
        let place = match place {
            Some(place) => place,
            None if self.counted(&valid.name) >= MAX_WORKERS => {
                return Err(Refusal::full(too_many()));
            }
            None => self.free_place()?,
        };
        let expires_ms = now_ms + self.remember_ms;
        // A remembered namesake has come back, in name at least.
        if let Some(gone) = gone.filter(|at| *at != place) {
            self.forget(gone);
        }
        let record = self.add(valid, WorkerState::Registered, expires_ms, place);
        Ok(record.id.clone())
    }

    /// A worker attaches: `id` is the identity it was given over HTTP, if any. Where all places are
    /// taken it gets that of the oldest registration that nobody has attached to, or of the worker
    /// that has been gone for longest.
    ///
    /// # Errors
    /// The identity is unknown, or there are too many workers that are attached, or too many routes.
    pub fn attach(
        &mut self,
        valid: ValidRegistration,
        id: Option<&str>,
        process: Process,
        lanes: Vec<Arc<LaneStats>>,
    ) -> Result<Attached, Refusal> {
        self.check_attach(&valid, id)?;
        let waiting = self.find(&valid.name, |state| state == WorkerState::Registered);
        let replaced = self.find(&valid.name, |state| state == WorkerState::Attached);
        let gone = self.find(&valid.name, |state| state == WorkerState::Gone);
        let place = waiting.or(gone.filter(|at| self.is_idle(*at)));
        let place = match place {
            Some(place) => place,
            None if self.counted(&valid.name) < MAX_WORKERS => self.free_place()?,
            None => self
                .least_missed()
                .ok_or_else(|| Refusal::full(too_many()))?,
        };
        if let Some(gone) = gone.filter(|at| *at != place) {
            self.forget(gone);
        }
        if let Some(old) = replaced {
            self.set_state(old, WorkerState::Draining, u64::MAX);
        }
        let name = valid.name.clone();
        for (index, record) in self.records.iter_mut().enumerate() {
            if let Some(record) = record.as_mut().filter(|r| *r.name == *name) {
                record.superseded = index != place;
                if record.superseded && record.state == WorkerState::Gone {
                    // There may be several whose lanes are still open.
                    record.expires_ms = 0;
                }
            }
        }
        let record = self.add(valid, WorkerState::Attached, u64::MAX, place);
        record.lanes_open = lanes.len();
        record.stats = lanes;
        record.pid = Some(process.pid);
        record.attach = process.attach;
        Ok(Attached {
            index: place,
            id: record.id.clone(),
            replaced,
        })
    }

    /// Whether a worker may attach.
    ///
    /// # Errors
    /// Those of [`Registry::attach`].
    pub fn check_attach(&self, valid: &ValidRegistration, id: Option<&str>) -> Result<(), Refusal> {
        let waiting = self.find(&valid.name, |state| state == WorkerState::Registered);
        let known = waiting.and_then(|at| self.get(at)).map(|r| &*r.id);
        if id.is_some() && known != id {
            let detail = "this identity was never given out, or has expired: register again, or attach without it";
            return Err(Refusal::Wrong(FieldError {
                field: "worker_id".into(),
                detail: detail.into(),
            }));
        }
        self.check_routes(valid, |_| true)?;
        if self.counted(&valid.name) >= MAX_WORKERS && self.least_missed().is_none() {
            return Err(Refusal::full(too_many()));
        }
        Ok(())
    }

    /// The worker gets nothing new.
    pub fn drain(&mut self, index: usize) {
        self.set_state(index, WorkerState::Draining, u64::MAX);
    }

    /// The worker is gone. One that was replaced is forgotten at once, any other is remembered.
    /// Returns its name, the first time.
    pub fn gone(&mut self, index: usize, now_ms: u64) -> Option<Arc<str>> {
        let record = self.records.get_mut(index)?.as_mut()?;
        if record.state == WorkerState::Gone {
            return None;
        }
        let (name, superseded) = (record.name.clone(), record.superseded);
        record.pid = None;
        let successor = self.iter().find(|(at, r)| {
            *at != index
                && r.name == name
                && matches!(r.state, WorkerState::Attached | WorkerState::Registered)
        });
        // A successor that is gone by now is the one to be remembered.
        let is_followed = superseded || successor.is_some();
        let expires_ms = now_ms + if is_followed { 0 } else { self.remember_ms };
        self.set_state(index, WorkerState::Gone, expires_ms);
        Some(name)
    }

    /// The worker is to be thrown out, for this reason. Returns whether that is news: each of its
    /// lanes may find something.
    pub fn evict(&mut self, index: usize, why: &str) -> bool {
        let record = self.records.get_mut(index).and_then(Option::as_mut);
        let Some(record) = record.filter(|r| r.evicted.is_none()) else {
            return false;
        };
        record.evicted = Some(why.to_owned());
        self.evictions += 1;
        true
    }

    /// How many workers were thrown out so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// A shard has let go of its lane to the worker. Returns how many are left, and what the worker
    /// does; `None` where nothing is known of it.
    pub fn lane_ended(&mut self, index: usize) -> Option<(usize, WorkerState)> {
        let record = self.records.get_mut(index).and_then(Option::as_mut)?;
        record.lanes_open = record.lanes_open.saturating_sub(1);
        Some((record.lanes_open, record.state))
    }

    /// Forgets whoever has been gone, or awaited, for long enough. Returns whether routes changed.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let mut changed = false;
        for index in 0..self.records.len() {
            let due = self.records[index].as_ref().is_some_and(|r| {
                r.expires_ms <= now_ms && r.lanes_open == 0 && r.state != WorkerState::Attached
            });
            if due {
                self.records[index] = None;
                self.edition += 1;
                changed = true;
            }
        }
        changed
    }

    /// When [`Registry::expire`] has something to do next.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        let dates = self
            .iter()
            .filter(|(_, r)| r.lanes_open == 0)
            .map(|(_, r)| r.expires_ms);
        dates.min().filter(|ms| *ms != u64::MAX)
    }

    /// Which edition of the route table follows from the workers as they are: as long as the number is
    /// the same, the table is.
    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// One worker.
    pub fn get(&self, index: usize) -> Option<&Record> {
        self.records.get(index)?.as_ref()
    }

    /// The workers that are attached.
    pub fn incarnations(&self) -> Vec<Incarnation> {
        let attached = self
            .iter()
            .filter(|(_, r)| r.state == WorkerState::Attached);
        attached
            .map(|(_, r)| Incarnation {
                name: r.name.clone(),
                attach: r.attach,
            })
            .collect()
    }

    /// Every worker, with its index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Record)> {
        self.records
            .iter()
            .enumerate()
            .filter_map(|(index, r)| Some((index, r.as_ref()?)))
    }

    /// The route table: attached workers first, in the order of their registration, then the routes
    /// that will answer 503.
    ///
    /// # Errors
    /// A route that cannot be added, as a path into its own worker's registration.
    pub fn routes(&self) -> Result<Routes, FieldError> {
        let mut sorted: Vec<_> = self.iter().filter(|(_, r)| !r.superseded).collect();
        sorted.sort_by_key(|(_, r)| (r.state != WorkerState::Attached, r.order));
        let mut builder = RouteTableBuilder::new();
        for (index, record) in sorted {
            let worker = if record.state == WorkerState::Attached {
                index
            } else {
                NO_LANE
            };
            for (number, route) in record.registration.routes.iter().enumerate() {
                let target = Target {
                    worker,
                    route: number as u32,
                    name: record.name.clone(),
                    max_body: route.max_body,
                    stream: route.stream.map(|options| {
                        let params = route.pattern.param_names().map(Box::from).collect();
                        Arc::new(StreamRoute { options, params })
                    }),
                };
                match builder.insert(route.method, &route.pattern, target) {
                    // First registered wins.
                    Ok(()) | Err(InsertError::Duplicate { .. }) => {}
                    Err(error) => {
                        let field = format!("routes[{number}].path");
                        return Err(FieldError {
                            field,
                            detail: error.to_string(),
                        });
                    }
                }
            }
        }
        Ok(builder.build())
    }

    /// Whether the routes of a newcomer fit beside those of the others. Those of its namesakes that
    /// `leave` make room for it.
    fn check_routes(
        &self,
        newcomer: &ValidRegistration,
        leave: impl Fn(&Record) -> bool,
    ) -> Result<(), Refusal> {
        let stays = |r: &&Record| !(r.superseded || *r.name == *newcomer.name && leave(r));
        let others = self.iter().map(|(_, r)| r).filter(stays);
        let others: usize = others.map(|r| r.registration.routes.len()).sum();
        let wanted = newcomer.routes.len();
        if others + wanted <= MAX_ROUTES_IN_ALL {
            return Ok(());
        }
        Err(Refusal::Full(FieldError {
            field: "routes".into(),
            detail: format!(
                "{wanted} routes beside the {others} of other workers are more than the {MAX_ROUTES_IN_ALL} that a hub takes: register fewer, for example with {{param}} or {{*rest}} in them, or stop other workers first"
            ),
        }))
    }

    /// Workers that have a place of their own, without those of this name: one that returns, or is
    /// replaced, needs no further place.
    fn counted(&self, name: &str) -> usize {
        let counts = |r: &Record| !r.superseded && *r.name != *name;
        self.iter().filter(|(_, r)| counts(r)).count()
    }

    /// A place that nobody has. There are as many again as workers, for those that drain while their
    /// successors are attached.
    fn free_place(&mut self) -> Result<usize, Refusal> {
        if let Some(free) = self.records.iter().position(Option::is_none) {
            return Ok(free);
        }
        if self.records.len() >= 2 * MAX_WORKERS {
            let detail = "too many workers that were replaced are still draining: try again later";
            return Err(Refusal::full(detail.into()));
        }
        self.records.push(None);
        Ok(self.records.len() - 1)
    }

    /// Whose place may go to one that is here: the oldest registration that nobody has attached to, or
    /// else the one that has been gone for longest.
    fn least_missed(&self) -> Option<usize> {
        let oldest = |state| {
            let idle = self.iter().filter(|(_, r)| r.lanes_open == 0);
            idle.filter(|(_, r)| r.state == state)
                .min_by_key(|(_, r)| r.expires_ms)
                .map(|(index, _)| index)
        };
        oldest(WorkerState::Registered).or_else(|| oldest(WorkerState::Gone))
    }

    /// Whether no shard knows the worker any more.
    fn is_idle(&self, index: usize) -> bool {
        self.get(index).is_none_or(|r| r.lanes_open == 0)
    }

    /// Puts a record into this place. One that was registered keeps its identity.
    fn add(
        &mut self,
        registration: ValidRegistration,
        state: WorkerState,
        expires_ms: u64,
        place: usize,
    ) -> &mut Record {
        // Who replaces a worker inherits its turn; who comes new is last.
        let name: Arc<str> = registration.name.as_str().into();
        let namesake = self.iter().find(|(_, r)| r.name == name);
        let order = namesake.map_or(self.next_order, |(_, r)| r.order);
        let waited = |r: &Record| r.state == WorkerState::Registered && r.name == name;
        let id = match &self.records[place] {
            Some(record) if waited(record) => record.id.clone(),
            _ => Uuid::new_v4().to_string(),
        };
        self.next_order += 1;
        self.edition += 1;
        self.records[place].insert(Record {
            name,
            id,
            registration: Arc::new(registration),
            state,
            pid: None,
            evicted: None,
            attach: 0,
            stats: Vec::new(),
            order,
            expires_ms,
            lanes_open: 0,
            superseded: false,
        })
    }

    /// Lets go of one that is gone.
    fn forget(&mut self, index: usize) {
        self.edition += 1;
        if let Some(Some(record)) = self.records.get_mut(index) {
            if record.lanes_open == 0 {
                self.records[index] = None;
            } else {
                record.superseded = true;
                record.expires_ms = 0;
            }
        }
    }

    fn set_state(&mut self, index: usize, state: WorkerState, expires_ms: u64) {
        if let Some(Some(record)) = self.records.get_mut(index) {
            self.edition += u64::from(
                (record.state == WorkerState::Attached) != (state == WorkerState::Attached),
            );
            record.state = state;
            record.expires_ms = expires_ms;
        }
    }

    fn find(&self, name: &str, state: impl Fn(WorkerState) -> bool) -> Option<usize> {
        self.iter()
            .find(|(_, r)| *r.name == *name && state(r.state))
            .map(|(index, _)| index)
    }
}

impl Record {
    /// Its routes, as they were registered.
    pub fn route_specs(&self) -> Vec<RouteSpec> {
        let specs = self.registration.routes.iter().map(|r| RouteSpec {
            method: r.method.to_string(),
            path: r.pattern.as_str().to_owned(),
            sse: r.stream.is_some(),
            replay: r.stream.is_some_and(|s| s.replay),
            slow: r.stream.and_then(|s| s.slow),
            max_body: r.max_body,
        });
        specs.collect()
    }
}

fn too_many() -> String {
    format!("{MAX_WORKERS} workers are attached or awaited already: stop some first")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Registration;
    use crate::message::{Method, Params};
    use crate::route::Lookup;

    fn valid(name: &str, paths: &[&str]) -> ValidRegistration {
        let routes = paths
            .iter()
            .map(|p| RouteSpec {
                method: "GET".into(),
                path: p.to_string(),
                ..RouteSpec::default()
            })
            .collect();
        Registration {
            name: name.into(),
            routes,
        }
        .validate()
        .unwrap()
    }

    fn process(pid: u32) -> Process {
        Process { pid, attach: 1 }
    }

    #[test]
    fn an_eviction_is_counted_once_however_many_lanes_find_a_reason() {
        let mut registry = Registry::new(100);
        let attach = |registry: &mut Registry, pid| {
            let lanes = vec![Arc::new(LaneStats::new(16)), Arc::new(LaneStats::new(16))];
            let attached = registry.attach(valid("a", &["/a"]), None, process(pid), lanes);
            attached.unwrap().index
        };
        let first = attach(&mut registry, 1);
        assert!(registry.evict(first, "it lied"));
        assert!(!registry.evict(first, "it lied again"));
        assert_eq!(registry.gone(first, 0).as_deref(), Some("a"));
        assert_eq!(
            registry.get(first).unwrap().evicted.as_deref(),
            Some("it lied")
        );
        // The one that comes after it has done nothing yet.
        let second = attach(&mut registry, 2);
        assert_eq!(registry.get(second).unwrap().evicted, None);
        assert_eq!(registry.evictions(), 1);
    }

    fn who(registry: &Registry, path: &str) -> Option<(usize, String)> {
        let routes = registry.routes().unwrap();
        match routes.lookup(Method::Get, path.as_bytes(), 0, &mut Params::default()) {
            Lookup::Found { target, .. } => Some((target.worker, target.name.to_string())),
            _ => None,
        }
    }

    #[test]
    fn a_lost_worker_is_remembered_for_a_while() {
        let mut registry = Registry::new(100);
        let a = registry
            .attach(valid("a", &["/a"]), None, process(1), Vec::new())
            .unwrap()
            .index;
        assert_eq!(who(&registry, "/a"), Some((a, "a".into())));
        assert!(registry.gone(a, 1_000).is_some());
        assert!(registry.gone(a, 1_001).is_none(), "gone once");
        assert_eq!(who(&registry, "/a"), Some((NO_LANE, "a".into())));
        assert_eq!(registry.next_expiry_ms(), Some(1_100));
        assert!(!registry.expire(1_099));
        assert!(registry.expire(1_100));
        assert_eq!(who(&registry, "/a"), None);
    }

    #[test]
    fn a_registration_waits_for_its_worker_and_then_expires() {
        let mut registry = Registry::new(100);
        let id = registry.register(valid("a", &["/a"]), 0).unwrap();
        assert_eq!(who(&registry, "/a"), Some((NO_LANE, "a".into())));
        assert_eq!(
            registry.register(valid("a", &["/b"]), 50).unwrap(),
            id,
            "the same once more"
        );
        assert_eq!(who(&registry, "/a"), None);
        let wrong = registry.attach(valid("a", &["/b"]), Some("else"), process(1), Vec::new());
        let Err(Refusal::Wrong(error)) = wrong else {
            panic!("{wrong:?}");
        };
        assert_eq!(error.field, "worker_id");
        let attached = registry
            .attach(valid("a", &["/b"]), Some(&id), process(1), Vec::new())
            .unwrap();
        assert_eq!(attached.id, id);
        assert!(!registry.expire(10_000));
        registry.register(valid("b", &["/b"]), 0).unwrap();
        assert!(registry.expire(100));
        assert_eq!(who(&registry, "/b"), Some((attached.index, "a".into())));
    }

    #[test]
    fn a_namesake_replaces_and_the_first_of_others_wins() {
        let mut registry = Registry::new(100);
        let a = registry
            .attach(valid("a", &["/x"]), None, process(1), Vec::new())
            .unwrap();
        let b = registry
            .attach(valid("b", &["/x"]), None, process(2), Vec::new())
            .unwrap();
        assert_eq!(who(&registry, "/x"), Some((a.index, "a".into())));
        let newer = registry
            .attach(valid("a", &["/x"]), None, process(3), Vec::new())
            .unwrap();
        assert_eq!(newer.replaced, Some(a.index));
        assert_ne!(newer.id, a.id);
        assert_eq!(
            who(&registry, "/x"),
            Some((newer.index, "a".into())),
            "it inherits the turn"
        );
        registry.gone(a.index, 5);
        assert!(registry.expire(5), "what was replaced is not remembered");
        registry.gone(newer.index, 6);
        assert_eq!(
            who(&registry, "/x"),
            Some((b.index, "b".into())),
            "who lives answers"
        );
    }

    #[test]
    fn an_index_is_not_used_again_while_a_shard_still_knows_it() {
        let mut registry = Registry::new(0);
        let stats = || vec![Arc::new(LaneStats::new(16)), Arc::new(LaneStats::new(16))];
        let a = registry
            .attach(valid("a", &["/a"]), None, process(1), stats())
            .unwrap()
            .index;
        registry.gone(a, 0);
        assert!(!registry.expire(10));
        let b = registry
            .attach(valid("b", &["/b"]), None, process(1), stats())
            .unwrap()
            .index;
        assert_ne!(a, b);
        let mut left = || registry.lane_ended(a).map(|(left, _)| left);
        assert_eq!((left(), left()), (Some(1), Some(0)));
        assert!(registry.expire(10));
        assert_eq!(
            registry
                .attach(valid("c", &["/c"]), None, process(1), stats())
                .unwrap()
                .index,
            a
        );
    }

    #[test]
    fn who_was_replaced_is_not_remembered_although_its_successor_went_first() {
        let mut registry = Registry::new(100);
        let old = attach(&mut registry, "a").unwrap().index;
        let new = attach(&mut registry, "a").unwrap().index;
        registry.gone(new, 5);
        registry.gone(old, 6);
        assert!(registry.expire(6));
        assert!(registry.get(old).is_none() && registry.get(new).is_some());
    }

    #[test]
    fn of_many_that_are_gone_but_for_their_lanes_one_is_remembered() {
        let mut registry = Registry::new(100);
        let stats = || vec![Arc::new(LaneStats::new(16))];
        let indices: Vec<usize> = (0..4)
            .map(|_| {
                let attached = registry.attach(valid("a", &[]), None, process(1), stats());
                let index = attached.unwrap().index;
                registry.gone(index, 5);
                index
            })
            .collect();
        for index in &indices {
            registry.lane_ended(*index);
        }
        registry.expire(6);
        assert_eq!(registry.iter().count(), 1);
        assert!(registry.get(indices[3]).is_some());
    }

    fn attach(registry: &mut Registry, name: &str) -> Result<Attached, Refusal> {
        registry.attach(valid(name, &[]), None, process(1), Vec::new())
    }

    fn is_full<T: std::fmt::Debug>(result: Result<T, Refusal>) -> bool {
        matches!(result, Err(Refusal::Full(_)))
    }

    #[test]
    fn registrations_that_nobody_attaches_to_keep_no_worker_out() {
        let mut registry = Registry::new(100);
        for n in 0..MAX_AWAITED {
            registry
                .register(valid(&format!("r{n}"), &[]), n as u64)
                .unwrap();
        }
        assert!(is_full(registry.register(valid("one more", &[]), 0)));
        // Who is known may register again.
        registry.register(valid("r7", &[]), 9_999).unwrap();
        for n in MAX_AWAITED..MAX_WORKERS {
            attach(&mut registry, &format!("w{n}")).unwrap();
        }
        // Those that nobody has attached to make room, the oldest first.
        for n in 0..MAX_AWAITED {
            attach(&mut registry, &format!("w{n}")).unwrap();
            let left = registry
                .iter()
                .filter(|(_, r)| r.state == WorkerState::Registered);
            assert_eq!(left.count(), MAX_AWAITED - 1 - n);
            let oldest = registry.find("r0", |_| true);
            assert_eq!(oldest, None);
        }
        assert!(is_full(attach(&mut registry, "another")));
        assert!(is_full(registry.register(valid("another", &[]), 0)));
    }

    #[test]
    fn where_all_places_are_taken_workers_come_back_and_are_replaced() {
        let mut registry = Registry::new(100);
        for n in 0..MAX_WORKERS {
            attach(&mut registry, &format!("w{n}")).unwrap();
        }
        assert!(is_full(attach(&mut registry, "another")));
        let old = registry.find("w3", |_| true).unwrap();
        registry.gone(old, 5);
        assert_eq!(attach(&mut registry, "w3").unwrap().index, old);
        let replaced = registry.find("w4", |_| true).unwrap();
        let attached = attach(&mut registry, "w4").unwrap();
        assert_eq!(attached.replaced, Some(replaced));
        // The one that has been gone for longest is missed least.
        for (n, now_ms) in [(5, 20), (6, 10)] {
            let index = registry.find(&format!("w{n}"), |_| true).unwrap();
            registry.gone(index, now_ms);
        }
        attach(&mut registry, "another").unwrap();
        assert_eq!(registry.find("w6", |_| true), None);
        assert!(registry.find("w5", |_| true).is_some());
    }

    #[test]
    fn routes_are_bounded_in_all() {
        let mut registry = Registry::new(100);
        let many = |name: &str| {
            let paths: Vec<_> = (0..crate::limits::MAX_ROUTES)
                .map(|n| format!("/{name}/{n}"))
                .collect();
            valid(name, &paths.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let whole = MAX_ROUTES_IN_ALL / crate::limits::MAX_ROUTES;
        for n in 0..whole {
            registry.register(many(&format!("w{n}")), 0).unwrap();
        }
        assert!(is_full(registry.register(valid("more", &["/more"]), 0)));
        let attached = registry.attach(valid("more", &["/more"]), None, process(1), Vec::new());
        assert!(is_full(attached));
        // What it has already is not counted twice.
        registry.register(many("w0"), 0).unwrap();
        registry
            .attach(many("w0"), None, process(1), Vec::new())
            .unwrap();
    }
}
