//! What one route lookup costs with 10, 1,000 and 10,000 routes, beside `matchit` with the same
//! patterns and paths. The floor is to know which path comes and compare the two, since a match has
//! looked at each byte. It never measures building a table in the same group as a lookup.

#[path = "samples/routes.rs"]
mod routes;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use slotway::message::{Method, Params};
use slotway::route::{Lookup, Pattern, RouteTable, RouteTableBuilder};

use routes::{CROWDED, USUAL, service};

/// Routes of one service; the tables hold as many services as make up their size.
const PER_SERVICE: usize = USUAL.len();
/// Different paths looked up in turn, so that neither the branch predictor nor the first-level
/// cache knows the one path by heart. A power of two.
const PATHS: usize = 256;

fn patterns(count: usize, of_service: &[&str]) -> Vec<Pattern> {
    (0..count / PER_SERVICE)
        .flat_map(|index| {
            let service = service(index);
            of_service
                .iter()
                .map(move |rest| format!("{service}/{rest}"))
        })
        .map(|text| Pattern::parse(&text).expect("the bench's own pattern"))
        .collect()
}

fn table(patterns: &[Pattern]) -> RouteTable<usize> {
    let mut builder = RouteTableBuilder::new();
    for (index, pattern) in patterns.iter().enumerate() {
        builder
            .insert(Method::Get, pattern, index)
            .expect("the bench's patterns differ");
    }
    builder.build()
}

/// The paths of one case, spread over all services. `rest` is what follows the service.
fn paths(count: usize, rest: impl Fn(usize) -> String) -> Vec<String> {
    let services = count / PER_SERVICE;
    (0..PATHS)
        // An odd stride visits the services in no order that a prefetcher could guess.
        .map(|i| format!("{}{}", service(i * 7919 % services), rest(i)))
        .collect()
}

/// A name, whether something is found, and the paths.
type Case = (&'static str, bool, Vec<String>);

fn lookups(c: &mut Criterion) {
    for count in [10, 1_000, 10_000] {
        let usual = [
            ("static", true, paths(count, |_| "/status".into())),
            ("beside", true, paths(count, |_| "/items/latest".into())),
            (
                "param",
                true,
                paths(count, |i| format!("/items/{}", i * 31)),
            ),
            (
                "deep",
                true,
                paths(count, |i| {
                    format!("/orgs/acme/teams/{i}/members/jane.doe/roles/maintainer")
                }),
            ),
            (
                "catch_all",
                true,
                paths(count, |i| format!("/files/img/{i}/a.png")),
            ),
            ("miss", false, paths(count, |i| format!("/nothing/{i}"))),
            // Those of the smallest table in every table: what more routes cost where the memory that a
            // search touches is the same.
            ("same_paths", true, paths(10, |_| "/status".into())),
        ];
        compare(c, &patterns(count, &USUAL), &usual);
        let crowded = [
            (
                "crowded_literal",
                true,
                paths(count, |_| "/items/latest".into()),
            ),
            (
                "crowded_param",
                true,
                paths(count, |i| format!("/items/{}", i * 31)),
            ),
        ];
        compare(c, &patterns(count, &CROWDED), &crowded);
    }
}

/// Measures the cases on one set of patterns.
fn compare(c: &mut Criterion, patterns: &[Pattern], cases: &[Case]) {
    let count = patterns.len();
    let table = table(patterns);
    let mut peer = matchit::Router::new();
    for (index, pattern) in patterns.iter().enumerate() {
        peer.insert(pattern.as_str(), index)
            .expect("patterns that matchit takes as well");
    }
    for (case, is_hit, paths) in cases {
        for path in paths {
            let mut params = Params::default();
            let found = table.lookup(Method::Get, path.as_bytes(), 0, &mut params);
            let ours = match found {
                Lookup::Found { target, .. } => Some(*target),
                _ => None,
            };
            let theirs = peer.at(path).ok().map(|found| *found.value);
            assert_eq!(ours, theirs, "both find the same route for {path}");
            assert_eq!(ours.is_some(), *is_hit, "{case}: {path}");
        }
        let mut group = c.benchmark_group(format!("route_match/{case}"));
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::new("slotway", count), paths, |b, paths| {
            let mut params = Params::default();
            let mut turn = 0;
            b.iter(|| {
                turn = (turn + 1) % PATHS;
                let path = black_box(paths[turn].as_bytes());
                let found = table.lookup(Method::Get, path, 64, &mut params);
                black_box(matches!(found, Lookup::Found { .. }));
                black_box(&params);
            });
        });
        group.bench_with_input(BenchmarkId::new("matchit", count), paths, |b, paths| {
            let mut turn = 0;
            b.iter(|| {
                turn = (turn + 1) % PATHS;
                let path = black_box(paths[turn].as_str());
                black_box(peer.at(path)).is_ok()
            });
        });
        group.bench_with_input(BenchmarkId::new("compare", count), paths, |b, paths| {
            let expected = paths.clone();
            let mut turn = 0;
            b.iter(|| {
                turn = (turn + 1) % PATHS;
                let path = black_box(paths[turn].as_bytes());
                path == expected[turn].as_bytes()
            });
        });
        group.finish();
    }
}

fn builds(c: &mut Criterion) {
    let patterns = patterns(10_000, &USUAL);
    let mut group = c.benchmark_group("route_match/build");
    group.throughput(Throughput::Elements(patterns.len() as u64));
    group.bench_function("10000", |b| b.iter(|| table(black_box(&patterns))));
    // The floor: to look at each pattern and put it into order, as any table must.
    group.bench_function("10000_sort_alone", |b| {
        b.iter(|| {
            let mut texts: Vec<&str> = black_box(&patterns).iter().map(Pattern::as_str).collect();
            texts.sort_unstable();
            texts
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30);
    targets = lookups, builds
}
criterion_main!(benches);
