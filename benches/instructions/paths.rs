//! The paths whose instructions are counted, each as a closure that takes one turn. What is not to be
//! counted stands outside [`counted_part`].

use std::hint::black_box;

use slotway::http::{
    BodyFraming, HeadScanner, HeadStyle, PassedFields, encode_worker_head, imf_fixdate, parse_head,
};
use slotway::message::{Method, Params, RequestHead, Span, Version};
use slotway::route::{Lookup, Pattern, RouteTable, RouteTableBuilder};
use slotway::shm::codec::{
    LifecycleFlags, MAX_ENCODED_REQUEST, RequestParts, decode_request, encode_request,
};

use crate::browser::BROWSER;
use crate::heads::{SMALL, WORKER_FIELDS};
use crate::hub_path::HubPath;
use crate::routes::{CROWDED, USUAL, service};

/// Of the route tables' hash: a random one changes the counts.
pub const SEED: u64 = 0x5107_3a17;

/// Takes a turn; `true`: it counts.
type Turn = Box<dyn FnMut(bool)>;

/// A path's name, and what makes it ready.
type Path = (&'static str, fn() -> Turn);

const PATHS: [Path; 18] = [
    ("http_parse_small", || http_parse(SMALL)),
    ("http_parse_browser", || http_parse(BROWSER)),
    ("route_match_10_literal", || {
        route_match(2, &USUAL, "status")
    }),
    ("route_match_10_parameters", || route_match(2, &USUAL, DEEP)),
    // A literal that a parameter stands beside, and the other way round.
    ("route_match_10_beside", || {
        route_match(2, &USUAL, "items/latest")
    }),
    ("route_match_10_weaker", || {
        route_match(2, &USUAL, "items/1234")
    }),
    // The same where the literals are told by a hash.
    ("route_match_10_beside_hashed", || {
        route_match(2, &CROWDED, "items/latest")
    }),
    ("route_match_10_weaker_hashed", || {
        route_match(2, &CROWDED, "items/1234")
    }),
    ("route_match_10000_literal", || {
        route_match(2000, &USUAL, "status")
    }),
    ("route_match_10000_parameters", || {
        route_match(2000, &USUAL, DEEP)
    }),
    // The same paths in both tables: what more routes cost. Two services are told apart by their first
    // byte, two thousand by their whole name.
    ("route_match_10_same_paths", || same_paths(2)),
    ("route_match_10000_same_paths", || same_paths(2000)),
    ("slot_codec_encode", slot_codec_encode),
    ("slot_codec_decode", slot_codec_decode),
    ("response_head_new", || response_head(&WORKER_FIELDS)),
    ("response_head_again", || response_head(&WORKER_FIELDS[..1])),
    ("hub_path_small", || hub_path(SMALL)),
    ("hub_path_browser", || hub_path(BROWSER)),
];

/// The rest of a path with four parameters.
const DEEP: &str = "orgs/acme/teams/platform/members/4711/roles/owner";

/// The names of all paths.
pub fn names() -> Vec<&'static str> {
    PATHS.iter().map(|(name, _)| *name).collect()
}

/// The path of this name, ready to take turns.
///
/// # Panics
/// There is none of this name.
pub fn path(name: &str) -> Turn {
    let path = PATHS.iter().find(|(known, _)| *known == name);
    let (_, make) = path.unwrap_or_else(|| panic!("there is no path '{name}'"));
    make()
}

/// What callgrind counts: everything between the beginning and the end of this function.
// Its name is what the driver gives to callgrind. The black box keeps its end behind the part's.
#[inline(never)]
pub fn counted_part<T>(part: impl FnOnce() -> T) -> T {
    black_box(part())
}

/// Runs a part, counted or not.
pub fn part<T>(counts: bool, part: impl FnOnce() -> T) -> T {
    if counts { counted_part(part) } else { part() }
}

fn http_parse(bytes: &'static str) -> Turn {
    let mut head = RequestHead::default();
    Box::new(move |counts| {
        let bytes = black_box(bytes.as_bytes());
        part(counts, || {
            let mut scanner = HeadScanner::default();
            let bounds = scanner.scan(bytes).unwrap().unwrap();
            parse_head(&bytes[bounds.start..bounds.end], &mut head).unwrap();
        });
        assert_eq!(head.method, Method::Get);
    })
}

/// These routes below each of these paths.
fn table(services: impl Iterator<Item = String>, routes: &[&str]) -> RouteTable<usize> {
    let mut builder = RouteTableBuilder::with_seed(SEED);
    for (number, service) in services.enumerate() {
        for rest in routes {
            let pattern = Pattern::parse(&format!("{service}/{rest}")).unwrap();
            builder.insert(Method::Get, &pattern, number).unwrap();
        }
    }
    builder.build()
}

/// Services that all begin alike.
fn route_match(services: usize, routes: &[&str], rest: &str) -> Turn {
    let service = |number: usize| format!("/service-{number}");
    let paths = (0..64).map(|i| format!("{}/{rest}", service(i * 31 % services)));
    lookup(table((0..services).map(service), routes), paths.collect())
}

/// Only paths of the first two of so many services.
fn same_paths(services: usize) -> Turn {
    let paths = (0..64).map(|i| format!("{}/status", service(i % 2)));
    lookup(table((0..services).map(service), &USUAL), paths.collect())
}

fn lookup(table: RouteTable<usize>, paths: Vec<String>) -> Turn {
    let mut params = Params::default();
    let mut next = 0;
    Box::new(move |counts| {
        let path = black_box(paths[next].as_bytes());
        next = (next + 1) % paths.len();
        let found = part(counts, || {
            let lookup = table.lookup(Method::Get, path, 4, &mut params);
            matches!(lookup, Lookup::Found { .. })
        });
        assert!(found);
    })
}

/// A parsed head and its parameter.
fn parsed() -> (RequestHead, Params) {
    let mut head = RequestHead::default();
    parse_head(BROWSER.as_bytes(), &mut head).unwrap();
    let mut params = Params::default();
    params.push(Span::new(BROWSER.find("1234").unwrap(), 4));
    (head, params)
}

fn encode(out: &mut [u8], head: &RequestHead, params: &Params) -> usize {
    let parts = RequestParts {
        route: 7,
        head,
        params,
        raw: BROWSER.as_bytes(),
        peer: Some(([127, 0, 0, 1], 50_000).into()),
        lifecycle: LifecycleFlags::None,
    };
    encode_request(out, black_box(&parts)).unwrap()
}

fn slot_codec_encode() -> Turn {
    let (head, params) = parsed();
    let mut slot = vec![0; MAX_ENCODED_REQUEST];
    Box::new(move |counts| {
        let len = part(counts, || encode(black_box(&mut slot), &head, &params));
        assert!(len > BROWSER.len());
    })
}

fn slot_codec_decode() -> Turn {
    let (head, params) = parsed();
    let mut slot = vec![0; MAX_ENCODED_REQUEST];
    let len = encode(&mut slot, &head, &params);
    slot.truncate(len);
    Box::new(move |counts| {
        // Every part once, as a worker that needs them all.
        let seen = part(counts, || {
            let view = decode_request(black_box(&slot)).unwrap();
            let fields = view.fields().map(|(name, value)| name.len() + value.len());
            let params = view.params().map(<[u8]>::len);
            view.path().len() + fields.sum::<usize>() + params.sum::<usize>()
        });
        assert!(seen > 100);
    })
}

fn response_head(sections: &'static [&'static str]) -> Turn {
    let date = imf_fixdate(784_111_777);
    let mut passed = PassedFields::default();
    let mut out = Vec::with_capacity(1024);
    let mut next = 0;
    Box::new(move |counts| {
        let fields = black_box(sections[next].as_bytes());
        next = (next + 1) % sections.len();
        out.clear();
        let style = HeadStyle {
            version: Version::Http11,
            keep_alive: true,
            date: &date,
            cors: true,
        };
        part(counts, || {
            let framing = BodyFraming::Length(black_box(1234));
            encode_worker_head(&mut out, &mut passed, 200, fields, framing, &style).unwrap();
        });
        assert!(out.len() > fields.len());
    })
}

fn hub_path(request: &'static str) -> Turn {
    let mut path = HubPath::new(request);
    Box::new(move |counts| path.turn(counts))
}
