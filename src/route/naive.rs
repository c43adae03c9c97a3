//! The matcher as its rules read, without any cleverness, and a check of the table against it that
//! both a test and a fuzz target run. It is never part of a normal build.

use std::cmp::Ordering;

use super::{InsertError, Lookup, MethodSet, Pattern, PatternSegment, RouteTableBuilder};
use crate::message::{Method, Params};

/// What the naive matcher comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NaiveLookup {
    /// A route matches.
    Found {
        /// Index of the route.
        index: usize,
        /// The route's method.
        matched_method: Method,
        /// Start and length of each parameter within the path.
        params: Vec<(usize, usize)>,
    },
    /// Routes match the path, but not with this method.
    NotAllowed(MethodSet),
    /// No route matches the path.
    NotFound,
}

/// Tries every route, in the order of registration.
pub fn naive_lookup(routes: &[(Method, Pattern)], method: Method, path: &[u8]) -> NaiveLookup {
    let best = |wanted: Method| {
        let mut best: Option<(usize, Match)> = None;
        for (index, (method, pattern)) in routes.iter().enumerate() {
            if *method != wanted {
                continue;
            }
            let Some(found) = match_one(pattern, path) else {
                continue;
            };
            if best
                .as_ref()
                .is_none_or(|(_, best)| found.ranks.cmp(&best.ranks) == Ordering::Less)
            {
                best = Some((index, found));
            }
        }
        best.map(|(index, found)| NaiveLookup::Found {
            index,
            matched_method: wanted,
            params: found.params,
        })
    };
    if let Some(found) = best(method) {
        return found;
    }
    if method == Method::Head
        && let Some(found) = best(Method::Get)
    {
        return found;
    }
    let others: MethodSet = routes
        .iter()
        .filter(|(_, pattern)| match_one(pattern, path).is_some())
        .map(|(method, _)| *method)
        .collect();
    if others.is_empty() {
        NaiveLookup::NotFound
    } else {
        NaiveLookup::NotAllowed(others.with_implied())
    }
}

struct Match {
    /// For each segment of the pattern: literal 0, parameter 1, catch-all 2. Lower is better, and
    /// an earlier segment decides before a later one.
    ranks: Vec<u8>,
    params: Vec<(usize, usize)>,
}

fn match_one(pattern: &Pattern, path: &[u8]) -> Option<Match> {
    let mut found = Match {
        ranks: Vec::new(),
        params: Vec::new(),
    };
    let mut at = 0;
    for segment in pattern.segments() {
        if path.get(at) != Some(&b'/') {
            return None;
        }
        let start = at + 1;
        let rest = &path[start..];
        let len = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
        at = start + len;
        match segment {
            PatternSegment::Literal(literal) => {
                if &rest[..len] != literal.as_bytes() {
                    return None;
                }
                found.ranks.push(0);
            }
            PatternSegment::Param(_) => {
                if len == 0 {
                    return None;
                }
                found.ranks.push(1);
                found.params.push((start, len));
            }
            PatternSegment::CatchAll(_) => {
                if rest.is_empty() {
                    return None;
                }
                found.ranks.push(2);
                found.params.push((start, rest.len()));
                at = path.len();
            }
        }
    }
    (at == path.len()).then_some(found)
}

/// Reads routes and requests out of arbitrary bytes and checks that the table and the naive matcher
/// agree on each. Every input means something, so a fuzzer wastes none.
///
/// # Panics
/// If they disagree; the message holds the routes and the request.
pub fn check(input: &[u8]) {
    let mut input = Input {
        bytes: input,
        crowd: None,
    };
    let mut builder = RouteTableBuilder::with_seed(u64::from(input.next()));
    let mut routes: Vec<(Method, Pattern)> = Vec::new();
    let kind = input.next();
    let many = if kind < 16 { 128 } else { 12 };
    let mut wanted: Vec<_> = (0..1 + input.next() as usize % many)
        .map(|_| (input.method(), input.pattern()))
        .collect();
    if (16..64).contains(&kind) {
        let crowd = input.crowd();
        wanted.extend(crowd.routes());
        input.crowd = Some(crowd);
    }
    for (method, pattern) in wanted {
        match builder.insert(method, &pattern, routes.len()) {
            Ok(()) => routes.push((method, pattern)),
            Err(InsertError::Duplicate { method, first }) => {
                let there = routes.iter().any(|route| *route == (method, first.clone()));
                assert!(there, "{first} is not among {routes:?}");
            }
            Err(InsertError::TooManyChoices { .. }) => {}
            Err(InsertError::Full) => panic!("a few short patterns cannot fill a table"),
        }
    }
    let table = builder.build();
    let listed: Vec<_> = table
        .iter()
        .map(|(route, target)| ((route.method, route.pattern.clone()), *target))
        .collect();
    let expected: Vec<_> = routes.iter().cloned().zip(0..).collect();
    assert_eq!(listed, expected);

    let mut params = Params::default();
    while !input.bytes.is_empty() {
        let method = input.method();
        let path = input.path();
        let base = input.next() as usize;
        let found = match table.lookup(method, &path, base, &mut params) {
            Lookup::Found {
                target,
                matched_method,
            } => NaiveLookup::Found {
                index: *target,
                matched_method,
                params: params
                    .as_slice()
                    .iter()
                    .map(|span| (span.start as usize - base, span.len as usize))
                    .collect(),
            },
            Lookup::NotAllowed(methods) => NaiveLookup::NotAllowed(methods),
            Lookup::NotFound => NaiveLookup::NotFound,
        };
        let expected = naive_lookup(&routes, method, &path);
        assert_eq!(
            found,
            expected,
            "{method} {:?} among {routes:?}",
            path.escape_ascii().to_string()
        );
        if !matches!(found, NaiveLookup::Found { .. }) {
            assert!(params.as_slice().is_empty(), "ranges of a failed search");
        }
    }
}

/// Few and alike, so that random routes and paths meet. Some share their first eight or sixteen
/// bytes, which is where comparing by words could go wrong.
const LITERALS: [&str; 16] = [
    "a",
    "b",
    "ab",
    "",
    "..",
    "%2F",
    "%2f",
    "eight-by",
    "eight-bytes",
    "eight-byteS",
    "sixteen-bytes-it",
    "sixteen-bytes-it-is",
    "sixteen-bytes-it-iS",
    "a-label-of-more-than-twenty-four-bytes",
    // Where a set of first bytes has a bit for 64, a NUL may begin a label too.
    "@a",
    "@b",
];

/// Labels that end just before, at and behind the end of a word.
const ENDS: [&str; 8] = [
    "seven-b",
    "nine-byte",
    "fifteen-bytes-i",
    "sixteen-bytes-iT",
    "sixteen-bytes-it-",
    "twenty-three-bytes-it-i",
    "twenty-four-bytes-it-is-",
    "twenty-five-bytes-it-is-s",
];

/// Siblings that are told apart by a number: it lies in a label's first word, in its second, across two,
/// in its last, or in none of these.
const FAMILIES: [(&str, &str); 8] = [
    ("", ""),
    ("", "-tail"),
    ("item", ""),
    ("across", "es"),
    ("of-nine-b", "-and-a-tail"),
    ("fourteen-bytes", ""),
    ("sixteen-bytes-it", ""),
    ("a-word-and-then-one-more-", "-and-a-tail"),
];

/// Siblings of one family below one parent, numbered from 0: enough of them are a large block.
#[derive(Clone, Copy)]
struct Crowd {
    parent: u8,
    family: u8,
    last: u8,
}

impl Crowd {
    /// What they are below, as a pattern and as a path that it matches.
    const PARENTS: [(&str, &str); 4] = [
        ("", ""),
        ("/a", "/a"),
        ("/{p}", "/any"),
        ("/sixteen-bytes-it", "/sixteen-bytes-it"),
    ];

    fn routes(self) -> impl Iterator<Item = (Method, Pattern)> {
        let (parent, _) = Self::PARENTS[self.parent as usize % Self::PARENTS.len()];
        (0..=self.last).map(move |number| {
            let text = format!("{parent}/{}", sibling(self.family, number));
            let pattern = Pattern::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            (Method::Get, pattern)
        })
    }

    /// The path of a sibling, which is a route's where the number is not above the last.
    fn path(self, number: u8) -> String {
        let (_, parent) = Self::PARENTS[self.parent as usize % Self::PARENTS.len()];
        format!("{parent}/{}", sibling(self.family, number))
    }
}

/// One of 256 in each family.
fn sibling(family: u8, number: u8) -> String {
    let (before, behind) = FAMILIES[family as usize % FAMILIES.len()];
    format!("{before}{number:03}{behind}")
}

struct Input<'a> {
    bytes: &'a [u8],
    /// What many of the paths lead to.
    crowd: Option<Crowd>,
}

impl Input<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    /// Half of them GET, so that routes differ by more than their method.
    fn method(&mut self) -> Method {
        Method::from_u8(self.next() % 16).unwrap_or(Method::Get)
    }

    fn crowd(&mut self) -> Crowd {
        Crowd {
            parent: self.next(),
            family: self.next(),
            last: self.next(),
        }
    }

    fn pattern(&mut self) -> Pattern {
        let mut text = String::new();
        for i in 0..1 + self.next() % 6 {
            // The seeds of the corpus were written when there were the first 32 choices only.
            let choice = self.next() as usize % 64;
            match LITERALS.get(choice) {
                Some(literal) => text.push_str(&format!("/{literal}")),
                None if choice < 18 => text.push_str(["/a", "/b"][choice % 2]),
                None if (32..48).contains(&choice) => {
                    text.push_str(&format!("/{}", sibling(self.next(), self.next())));
                }
                None if (48..56).contains(&choice) => {
                    text.push_str(&format!("/{}", ENDS[choice - 48]));
                }
                None if choice % 32 < 30 => text.push_str(&format!("/{{p{i}}}")),
                None => {
                    text.push_str(&format!("/{{*p{i}}}"));
                    break;
                }
            }
        }
        Pattern::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn path(&mut self) -> Vec<u8> {
        let mut path = Vec::new();
        let mut segments = 1 + self.next() % 7;
        if let Some(crowd) = self.crowd
            && self.next() < 192
        {
            path.extend_from_slice(crowd.path(self.next()).as_bytes());
            segments = self.next() / 128;
        }
        for _ in 0..segments {
            let choice = self.next() as usize % 64;
            path.extend_from_slice(b"/");
            match LITERALS.get(choice) {
                Some(literal) => path.extend_from_slice(literal.as_bytes()),
                None if (32..48).contains(&choice) => {
                    path.extend_from_slice(sibling(self.next(), self.next()).as_bytes());
                }
                None if (48..56).contains(&choice) => {
                    path.extend_from_slice(ENDS[choice - 48].as_bytes());
                }
                None if choice % 32 < 28 => path.push(b"ab"[choice % 2]),
                // Arbitrary bytes, slashes and NULs included.
                None => (0..self.next() % 20).for_each(|_| path.push(self.next())),
            }
            // What looks like the padding of a short word must not be taken for it.
            if self.next() < 8 {
                path.push(0);
            }
        }
        match self.next() {
            0..8 => drop(path.remove(0)),
            8..16 => path.truncate(path.len() / 2),
            _ => {}
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step of splitmix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn the_table_agrees_with_the_naive_matcher() {
        let seed = match std::env::var("ROUTE_SEED") {
            Ok(seed) => seed.parse().expect("ROUTE_SEED is a decimal number"),
            Err(_) => {
                use std::hash::{BuildHasher, Hasher};
                std::hash::RandomState::new().build_hasher().finish()
            }
        };
        println!("ROUTE_SEED={seed} repeats this run");
        let mut state = seed;
        for _ in 0..4000 {
            let len = next(&mut state) as usize % 1500;
            let input: Vec<u8> = (0..len).map(|_| next(&mut state) as u8).collect();
            check(&input);
        }
    }

    #[test]
    fn the_fuzz_corpus_passes() {
        crate::corpus::replay("route_match", check);
    }

    #[test]
    fn generated_requests_reach_every_outcome() {
        let mut state = 1;
        let (mut found, mut not_allowed, mut not_found) = (0, 0, 0);
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..200).map(|_| next(&mut state) as u8).collect();
            let mut input = Input {
                bytes: &bytes,
                crowd: None,
            };
            let routes: Vec<_> = (0..8).map(|_| (input.method(), input.pattern())).collect();
            match naive_lookup(&routes, input.method(), &input.path()) {
                NaiveLookup::Found { .. } => found += 1,
                NaiveLookup::NotAllowed(_) => not_allowed += 1,
                NaiveLookup::NotFound => not_found += 1,
            }
        }
        let least = found.min(not_allowed).min(not_found);
        assert!(least > 50, "{found} {not_allowed} {not_found}");
    }
}
