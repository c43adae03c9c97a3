//! What the supervisor and the shards' control requests share: the registry behind a lock, and the
//! way to every shard. A change and its announcement happen under one lock, so that the shards see
//! changes in the order they were made.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::control::FieldError;
use crate::gateway::connections::Connections;
use crate::gateway::mailbox::Sender;
use crate::gateway::shard::Command;
use crate::gateway::stream::{Streams, ToStreams};
use crate::hub::registry::Registry;

/// The shared state of the control plane.
#[derive(Debug)]
pub struct HubState {
    registry: Mutex<Registry>,
    /// Notified when the registry has changed.
    news: Condvar,
    shards: Vec<Sender<Command>>,
    /// Wakes the supervisor, whose next deadline may have changed.
    changed: Sender<()>,
    /// The way to the streams thread.
    pub streams: Streams,
    /// How many connections there are and may be.
    pub connections: Connections,
    /// Where workers attach.
    pub socket: PathBuf,
}

impl HubState {
    /// The state of a hub with these shards.
    pub fn new(
        registry: Registry,
        shards: Vec<Sender<Command>>,
        changed: Sender<()>,
        streams: Streams,
        connections: Connections,
        socket: PathBuf,
    ) -> HubState {
        HubState {
            registry: Mutex::new(registry),
            news: Condvar::new(),
            shards,
            changed,
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
        f(&mut self.lock())
    }

    /// Changes the registry; then sends the shards the commands of `before`, the new routes, and
    /// the commands of `after`, in this order. Nothing is sent if the change fails.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn change<R>(
        &self,
        f: impl FnOnce(&mut Registry, &mut Announcement) -> Result<R, FieldError>,
    ) -> Result<R, FieldError> {
        let mut registry = self.lock();
        let mut announcement = Announcement::default();
        let result = f(&mut registry, &mut announcement)?;
        let routes = Arc::new(registry.routes()?);
        for (shard, commands) in self.shards.iter().enumerate() {
            let own = |commands: &mut Vec<(usize, Command)>| -> Vec<Command> {
                commands
                    .extract_if(.., |(to, _)| *to == shard)
                    .map(|(_, c)| c)
                    .collect()
            };
            let (before, after) = (own(&mut announcement.before), own(&mut announcement.after));
            before.into_iter().for_each(|c| commands.send(c));
            commands.send(Command::Routes(routes.clone()));
            after.into_iter().for_each(|c| commands.send(c));
        }
        // After the shards, so that what the streams thread asks of one finds the lane it is about.
        let workers = registry.incarnations();
        self.streams.send(ToStreams::Workers(routes, workers));
        self.changed.send(());
        self.news.notify_all();
        Ok(result)
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
