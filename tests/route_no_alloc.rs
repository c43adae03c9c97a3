//! A lookup never allocates, whatever it comes to. The counting allocator needs a process of its
//! own, so nothing else is tested here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use slotway::message::{Method, Params};
use slotway::route::{Lookup, Pattern, RouteTableBuilder};

struct Counting;

thread_local! {
    /// Allocations of this thread; the test harness has threads of its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is handed to the system allocator unchanged; counting touches only a
// const-initialised thread-local without a destructor, which itself never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from the system allocator with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from the system allocator with this layout.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_lookup_does_not_allocate() {
    let mut builder = RouteTableBuilder::new();
    for i in 0..100 {
        for rest in ["status", "items/{id}", "{a}/{b}/{c}", "files/{*path}"] {
            let pattern = Pattern::parse(&format!("/service-{i}/{rest}")).unwrap();
            builder.insert(Method::Get, &pattern, i).unwrap();
        }
    }
    let table = builder.build();
    let mut params = Params::default();
    let long = format!("/service-9/files/{}", "x/".repeat(4000));
    let mut outcomes = [0; 3];

    let before = ALLOCATIONS.get();
    for method in Method::ALL {
        for path in [
            "/service-7/status",
            "/service-7/items/42",
            "/service-7/items/b/c",
            "/service-7/files/a/b/c",
            "/service-7/nothing",
            "/other",
            "*",
            "",
            long.as_str(),
        ] {
            let outcome = match table.lookup(method, path.as_bytes(), 50, &mut params) {
                Lookup::Found { .. } => 0,
                Lookup::NotAllowed(_) => 1,
                Lookup::NotFound => 2,
            };
            outcomes[outcome] += 1;
        }
    }
    let after = ALLOCATIONS.get();

    assert_eq!(after, before, "lookups allocated");
    assert_eq!(outcomes, [10, 30, 32]);
    // The counter does count.
    drop(std::hint::black_box(vec![1_u8]));
    assert_eq!(ALLOCATIONS.get(), after + 1);
}
