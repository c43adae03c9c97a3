//! What the supervisor and the shards' control requests share: the registry behind a lock, and the
//! way to every shard. Changes and their announcements happen one after the other, so that the shards
//! see them in the order they were made; who only looks never waits for a change.

use std::mem::replace;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::gateway::ControlAnswer;
use crate::gateway::Routes;
use crate::gateway::connections::Connections;
use crate::gateway::mailbox::Sender;
use crate::gateway::shard::Command;
use crate::gateway::stream::{ReplyTo, Streams, Workers};
use crate::hub::refusal::Refusal;
use crate::hub::registry::Registry;

/// The shared state of the control plane.
#[derive(Debug)]
pub struct HubState {
    /// Held for as long as a change takes, and the table with it.
    tables: Mutex<Tables>,
    /// Held for moments.
    registry: Mutex<Registry>,
    /// Notified when the registry has changed.
    news: Condvar,
    shards: Vec<Sender<Command>>,
    /// The way to the supervisor, which sees to registrations.
    registrations: Sender<RegisterRequest>,
    /// The way to the streams thread.
    pub streams: Streams,
    /// How many connections there are and may be.
    pub connections: Connections,
    /// Where workers attach.
    pub socket: PathBuf,
}

/// The body of a `POST /internal/register`, and who waits for the answer.
pub type RegisterRequest = (Vec<u8>, ReplyTo);

/// The route tables that are in use.
#[derive(Debug, Default)]
struct Tables {
    current: Arc<Routes>,
    /// Earlier ones that somebody may still have. Kept until nobody does, for it is not a shard that
    /// should take a large one apart.
    retired: Vec<Arc<Routes>>,
}

impl HubState {
    /// The state of a hub with these shards.
    pub fn new(
        registry: Registry,
        shards: Vec<Sender<Command>>,
        registrations: Sender<RegisterRequest>,
        streams: Streams,
        connections: Connections,
        socket: PathBuf,
    ) -> HubState {
        HubState {
            tables: Mutex::default(),
            registry: Mutex::new(registry),
            news: Condvar::new(),
            shards,
            registrations,
            streams,
            connections,
            socket,
        }
    }

    /// Looks at the registry.
    pub fn read<R>(&self, f: impl FnOnce(&Registry) -> R) -> R {
        f(&self.lock())
    }

    /// Notes something in the registry that no shard needs to know.
    pub fn note<R>(&self, f: impl FnOnce(&mut Registry) -> R) -> R {
        let _no_change = self.lock_tables();
        f(&mut self.lock())
    }

    /// Changes the registry; then sends the shards the commands of `before`, the new routes if they are
    /// others, and the commands of `after`, in this order. If the change fails, or its routes cannot be
    /// built, all stays as it was. Building many routes takes a while, so shards leave this to the
    /// supervisor.
    ///
    /// # Errors
    /// Those of `f`, and a route that cannot be added to the table.
    pub fn change<R>(
        &self,
        f: impl FnOnce(&mut Registry, &mut Announcement) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let mut tables = self.lock_tables();
        let mut changed = self.read(Registry::clone);
        let edition = changed.edition();
        let mut announcement = Announcement::default();
        let result = f(&mut changed, &mut announcement)?;
        let routes = match changed.edition() == edition {
            true => None,
            false => Some(Arc::new(changed.routes()?)),
        };
        if let Some(routes) = &routes {
            let retired = replace(&mut tables.current, routes.clone());
            tables.retired.push(retired);
        }
        for (shard, commands) in self.shards.iter().enumerate() {
            let own = |commands: &mut Vec<(usize, Command)>| -> Vec<Command> {
                commands
                    .extract_if(.., |(to, _)| *to == shard)
                    .map(|(_, c)| c)
                    .collect()
            };
            let (before, after) = (own(&mut announcement.before), own(&mut announcement.after));
            before.into_iter().for_each(|c| commands.send(c));
            routes
                .iter()
                .for_each(|routes| commands.send(Command::Routes(routes.clone())));
            after.into_iter().for_each(|c| commands.send(c));
        }
        // After the shards, so that what the streams thread asks of one finds the lane it is about.
        if let Some(routes) = routes {
            let attached = changed.incarnations();
            self.streams.set_workers(Workers { routes, attached });
        }
        // Last, so that who has seen a change here finds it everywhere.
        let before = replace(&mut *self.lock(), changed);
        drop(before);
        self.news.notify_all();
        Ok(result)
    }

    /// Takes tables apart that nobody has any more. Returns whether there are others that will be to.
    pub fn clear_retired(&self) -> bool {
        let mut tables = self.lock_tables();
        tables.retired.retain(|t| Arc::strong_count(t) > 1);
        !tables.retired.is_empty()
    }

    /// Leaves a registration to the supervisor, which answers with [`HubState::answer_later`].
    pub fn leave_registration(&self, body: Vec<u8>, reply_to: ReplyTo) {
        self.registrations.send((body, reply_to));
    }

    /// Answers a control request that a shard waits with.
    pub fn answer_later(&self, reply_to: ReplyTo, answer: ControlAnswer) {
        if let Some(shard) = self.shards.get(reply_to.shard) {
            shard.send(Command::Answered(reply_to.ticket, answer));
        }
    }

    /// Waits until the registry is as wanted, or the time is up. Returns whether it is.
    pub fn wait_until(&self, timeout: Duration, wanted: impl Fn(&Registry) -> bool) -> bool {
        let waited = self
            .news
            .wait_timeout_while(self.lock(), timeout, |r| !wanted(r));
        let (registry, _) = waited.unwrap_or_else(PoisonError::into_inner);
        wanted(&registry)
    }

    /// Sends every shard a command.
    pub fn tell_all(&self, command: impl Fn() -> Command) {
        self.shards.iter().for_each(|shard| shard.send(command()));
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    fn lock_tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the shards are told about a change, beside the routes.
#[derive(Debug, Default)]
pub struct Announcement {
    before: Vec<(usize, Command)>,
    after: Vec<(usize, Command)>,
}

impl Announcement {
    /// A command for one shard, ahead of the routes.
    pub fn before(&mut self, shard: usize, command: Command) {
        self.before.push((shard, command));
    }

    /// A command for one shard, behind the routes.
    pub fn after(&mut self, shard: usize, command: Command) {
        self.after.push((shard, command));
    }

    /// A command for each of `shards` shards, behind the routes.
    pub fn after_all(&mut self, shards: usize, command: impl Fn() -> Command) {
        self.after
            .extend((0..shards).map(|shard| (shard, command())));
    }
}
