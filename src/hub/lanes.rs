//! Makes the lanes of a new worker: two memories and two doorbells for each shard, and the descriptors
//! the worker gets of them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::control::{FieldError, WakeMode};
use crate::gateway::lane::LaneParts;
use crate::gateway::stats::LaneStats;
use crate::gateway::stream::Incarnation;
use crate::hub::refusal::Refusal;
use crate::hub::start::remedy;
use crate::shm::layout::Geometry;
use crate::shm::region::LaneMemory;
use crate::sys::eventfd::EventFd;
use crate::sys::memory::SharedMemory;
use crate::sys::wake_fd::WakeFd;

/// A lane before it is handed out: the hub's part, and the descriptors for the worker in the order
/// of the ABI.
struct NewLane {
    /// What the shard gets.
    parts: LaneParts,
    /// Request memory, response memory, the hub's eventfd, what the worker is woken by.
    for_worker: ForWorker,
}

/// The descriptors of one lane that the worker gets.
pub type ForWorker = [OwnedFd; 4];

/// A lane to each of so many shards.
///
/// # Errors
/// What is missing for them.
pub fn make(
    shards: usize,
    worker: &Incarnation,
    geometry: Geometry,
    wake: WakeMode,
) -> Result<(Vec<LaneParts>, Vec<ForWorker>), Refusal> {
    let lanes = (0..shards).map(|_| NewLane::new(worker, geometry, wake));
    let lanes = lanes.collect::<io::Result<Vec<_>>>().map_err(no_lanes)?;
    let split = |lane: NewLane| (lane.parts, lane.for_worker);
    Ok(lanes.into_iter().map(split).unzip())
}

/// Why the lanes of a worker could not be made. Most that can be missing for them comes back.
fn no_lanes(error: io::Error) -> Refusal {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    let refused = FieldError {
        field: "lanes".into(),
        detail: format!(
            "the hub cannot make the worker's lanes: {error}{}",
            remedy(&error)
        ),
    };
    match error.kind() {
        InvalidInput | PermissionDenied | Unsupported => Refusal::Wrong(refused),
        _ => Refusal::Full(refused),
    }
}

impl NewLane {
    /// A lane of this geometry for this worker.
    ///
    /// # Errors
    /// No memory or no file descriptor is left.
    fn new(worker: &Incarnation, geometry: Geometry, wake: WakeMode) -> io::Result<NewLane> {
        let len = geometry.memory_len();
        let (request, request_map) = SharedMemory::create_written_here("slotway-request", len)?;
        let (response, response_map) =
            SharedMemory::create_written_by_peer("slotway-response", len)?;
        let memory = LaneMemory::new(request_map, response_map, geometry)?;
        // Not non-blocking: a read of it in the hub's ring is to wait. A worker that fills the
        // counter to the brim blocks itself, not the hub.
        let hub_doorbell = OwnedFd::from(EventFd::new(false)?);
        // The worker gets no hold of what this process writes to.
        let worker_doorbell = EventFd::new(true)?;
        let worker_wake = WakeFd::new(&worker_doorbell)?;
        let for_worker = [
            request.into(),
            response.into(),
            hub_doorbell.try_clone()?,
            worker_wake.into(),
        ];
        let parts = LaneParts {
            worker: worker.clone(),
            memory: Arc::new(memory),
            stats: Arc::new(LaneStats::new(geometry.slots())),
            hub_doorbell,
            worker_doorbell: worker_doorbell.into(),
            wake,
        };
        Ok(NewLane { parts, for_worker })
    }
}
