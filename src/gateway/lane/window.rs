//! How many exchanges of one kind may be under way on a lane at a time, and who comes next. What a
//! worker is told of connections is kept in windows, so that thousands of them who come or go at once
//! never stand before ordinary requests, neither in the lane's lines nor in the worker's ring.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::gateway::lane::line::{Line, Place};
use crate::limits::MAX_NOTICES;
use crate::shm::layout::Geometry;

/// A window: a number of permits, and a line of those who wait for one.
#[derive(Debug)]
pub struct Window {
    most: usize,
    most_late: usize,
    open: Cell<usize>,
    late: Cell<usize>,
    line: Line,
}

/// The right to an exchange of the window's kind, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    window: Rc<Window>,
    is_late: bool,
}

/// The windows of one lane.
#[derive(Debug)]
pub struct Windows {
    /// Clients who ask to be connected. They may fill half of the lane, and one that is never answered
    /// keeps its part of that half.
    pub connects: Rc<Window>,
    /// Connections that a successor is shown.
    pub inherited: Rc<Window>,
    /// Connections that have ended.
    pub ended: Rc<Window>,
}

impl Windows {
    /// The windows of a lane of this size. Together they leave slots to ordinary requests.
    pub fn new(geometry: Geometry) -> Windows {
        let slots = geometry.slots() as usize;
        let notices = MAX_NOTICES.min(slots / 8);
        Windows {
            connects: Window::new(slots / 2, 0),
            inherited: Window::new(notices, notices / 2),
            ended: Window::new(notices, 0),
        }
    }

    /// Has everybody who waits look again.
    pub fn wake_all(&self) {
        for window in [&self.connects, &self.inherited, &self.ended] {
            window.line.wake_all();
        }
    }
}

impl Window {
    /// A window of `most` permits; so many more may be late.
    pub fn new(most: usize, most_late: usize) -> Rc<Window> {
        Rc::new(Window {
            most,
            most_late,
            open: Cell::new(0),
            late: Cell::new(0),
            line: Line::default(),
        })
    }

    /// Whether nobody has a permit, or waits for one.
    pub fn is_idle(&self) -> bool {
        self.open.get() == 0 && self.line.is_empty()
    }

    /// Waits for a permit: first come, first served. `None` where `is_over` says so before, which is
    /// looked at whenever the task is woken.
    pub async fn enter(self: &Rc<Window>, is_over: impl Fn() -> bool) -> Option<Permit> {
        let mut place = Place::before(&self.line);
        poll_fn(|cx| {
            if is_over() {
                return Poll::Ready(None);
            }
            if place.is_first() && self.open.get() < self.most {
                self.open.set(self.open.get() + 1);
                return Poll::Ready(Some(Permit {
                    window: self.clone(),
                    is_late: false,
                }));
            }
            place.join(cx.waker());
            Poll::Pending
        })
        .await
    }

    fn give_back(&self) {
        self.open.set(self.open.get() - 1);
        self.line.wake_first();
    }
}

impl Permit {
    /// The worker has had its time. The next may come, unless too many are late already: what they take
    /// of the lane is not free before the worker answers.
    pub fn is_overdue(&mut self) {
        let window = &self.window;
        if !self.is_late && window.late.get() < window.most_late {
            self.is_late = true;
            window.late.set(window.late.get() + 1);
            window.give_back();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_late {
            self.window.late.set(self.window.late.get() - 1);
        } else {
            self.window.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn entered(window: &Rc<Window>) -> Option<Permit> {
        match poll(pin!(window.enter(|| false))) {
            Poll::Ready(permit) => permit,
            Poll::Pending => None,
        }
    }

    #[test]
    fn permits_go_to_who_came_first() {
        let window = Window::new(2, 0);
        let one = entered(&window).unwrap();
        let _two = entered(&window).unwrap();
        let mut first = pin!(window.enter(|| false));
        let over = Cell::new(false);
        {
            let mut second = pin!(window.enter(|| over.get()));
            let mut third = pin!(window.enter(|| false));
            assert!(poll(first.as_mut()).is_pending());
            assert!(poll(second.as_mut()).is_pending());
            assert!(poll(third.as_mut()).is_pending());
            drop(one);
            assert!(entered(&window).is_none(), "others were first");
            assert!(poll(third.as_mut()).is_pending());
            let one = poll(first.as_mut());
            assert!(matches!(one, Poll::Ready(Some(_))));
            over.set(true);
            assert!(matches!(poll(second.as_mut()), Poll::Ready(None)));
            assert!(poll(third.as_mut()).is_pending());
            drop(one);
            assert!(matches!(poll(third.as_mut()), Poll::Ready(Some(_))));
        }
        assert!(!window.is_idle());
        drop(_two);
        assert!(window.is_idle());
    }

    #[test]
    fn who_is_late_makes_room_for_few() {
        let window = Window::new(1, 1);
        let mut one = entered(&window).unwrap();
        one.is_overdue();
        one.is_overdue();
        let mut two = entered(&window).unwrap();
        two.is_overdue();
        assert!(entered(&window).is_none(), "one is late already");
        drop(one);
        two.is_overdue();
        let three = entered(&window).unwrap();
        assert!(entered(&window).is_none());
        drop(two);
        assert!(entered(&window).is_none());
        drop(three);
        assert!(entered(&window).is_some());
        assert!(window.is_idle());
    }
}
