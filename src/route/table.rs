//! The immutable route table and its lookup. It never allocates or decodes during a lookup, and its
//! cost grows with the length of the path, not with the number of routes.

use super::builder::RouteTableBuilder;
use super::methods::MethodSet;
use super::pattern::Pattern;
use super::tree::{Search, Tree};
use crate::limits::MAX_HEAD;
use crate::message::{Method, Params};

/// Routes, laid out for lookups. Made by [`RouteTableBuilder::build`]; shared between threads as is.
///
/// # Cost
/// Each segment of the path costs at most one hash and two probes on average, whatever the number of
/// routes.
/// Where a literal and a parameter both match a segment and the literal turns out a dead end, the
/// parameter is tried. A search therefore follows at most [`RouteTable::worst_trails`] ways through the tree
/// and reads each byte of the path at most a few times on each. That number depends on the routes
/// alone, and the builder refuses routes that would raise it above
/// [`MAX_ROUTE_TRAILS`](crate::limits::MAX_ROUTE_TRAILS). It also bounds the depth of recursion. A
/// HEAD request that falls back to GET may take two searches.
#[derive(Debug)]
pub struct RouteTable<T> {
    tree: Tree,
    /// Indexed by what the tree finds.
    targets: Box<[T]>,
    /// In the order of registration.
    routes: Box<[Route]>,
    methods: MethodSet,
    trails: usize,
}

/// One registered route, without its target.
#[derive(Clone, Debug)]
pub struct Route {
    /// The method it was registered for.
    pub method: Method,
    /// Its pattern.
    pub pattern: Pattern,
    /// Index of its target.
    pub(super) place: u32,
}

/// What a lookup came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a, T> {
    /// A route matches.
    Found {
        /// What was registered with it.
        target: &'a T,
        /// The method of the route: GET for a HEAD request that no HEAD route matches.
        matched_method: Method,
    },
    /// Routes match the path, but none has the method: 405 (RFC 9110, section 15.5.6). The set is
    /// what `Allow` lists: the methods of all these routes, HEAD where there is GET, and OPTIONS.
    NotAllowed(MethodSet),
    /// No route matches the path: 404.
    NotFound,
}

impl<T> RouteTable<T> {
    pub(super) fn new(tree: Tree, targets: Box<[T]>, routes: Box<[Route]>, trails: usize) -> Self {
        let methods = routes.iter().map(|route| route.method).collect();
        RouteTable {
            tree,
            targets,
            routes,
            methods,
            trails,
        }
    }

    /// Finds the best route for a method and a path.
    ///
    /// `path` is the path as received, without the query. `base` is where it starts in the request
    /// head; it is added to the ranges in `params`, which are in the order of the pattern's
    /// placeholders. Whatever `params` held before is gone, and unless a route is found it is left
    /// empty. A path that does not start with a slash (`*`), or that reaches past [`MAX_HEAD`]
    /// bytes with `base` before it, is not found.
    #[inline]
    pub fn lookup(
        &self,
        method: Method,
        path: &[u8],
        base: usize,
        params: &mut Params,
    ) -> Lookup<'_, T> {
        params.truncate(0);
        if path.len() > MAX_HEAD || base > MAX_HEAD - path.len() {
            // A range this far out could not be written down in 16 bits.
            return Lookup::NotFound;
        }
        let mut search = Search {
            path,
            base,
            wanted: method,
            params,
            others: MethodSet::EMPTY,
            #[cfg(test)]
            steps: 0,
        };
        if method == Method::Head && !self.methods.contains(Method::Head) {
            // The usual case: nobody registers HEAD, so only GET is worth a search.
            search.wanted = Method::Get;
        }
        let mut found = self.tree.find(&mut search);
        if found.is_none() && method == Method::Head && search.others.contains(Method::Get) {
            search.params.truncate(0);
            search.wanted = Method::Get;
            found = self.tree.find(&mut search);
        }
        if let Some(target) = found.and_then(|place| self.targets.get(place as usize)) {
            return Lookup::Found {
                target,
                matched_method: search.wanted,
            };
        }
        search.params.truncate(0);
        if search.others.is_empty() {
            Lookup::NotFound
        } else {
            Lookup::NotAllowed(search.others.with_implied())
        }
    }

    /// Every route and its target, in the order of registration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Route, &T)> {
        self.routes
            .iter()
            .map(|route| (route, &self.targets[route.place as usize]))
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    #[cfg(test)]
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Most ways through the tree that one search can have to follow, whatever the path.
    pub fn worst_trails(&self) -> usize {
        self.trails
    }
}

impl<T> Default for RouteTable<T> {
    /// A table in which nothing is found.
    fn default() -> Self {
        RouteTableBuilder::new().build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_TARGET;
    use crate::route::InsertError;
    use crate::route::naive::{NaiveLookup, naive_lookup};

    fn table(routes: &[(Method, &'static str)]) -> RouteTable<&'static str> {
        let mut builder = RouteTableBuilder::with_seed(42);
        for (method, text) in routes {
            let pattern = Pattern::parse(text).unwrap();
            builder.insert(*method, &pattern, *text).unwrap();
        }
        builder.build()
    }

    fn gets(patterns: &[&'static str]) -> RouteTable<&'static str> {
        let routes: Vec<_> = patterns.iter().map(|text| (Method::Get, *text)).collect();
        table(&routes)
    }

    /// The pattern that a GET finds and its parameters, or nothing.
    fn get<'p>(
        table: &RouteTable<&'static str>,
        path: &'p str,
    ) -> Option<(&'static str, Vec<&'p str>)> {
        let mut params = Params::default();
        match table.lookup(Method::Get, path.as_bytes(), 0, &mut params) {
            Lookup::Found { target, .. } => {
                let values = params.as_slice().iter().map(|span| &path[span.range()]);
                Some((*target, values.collect()))
            }
            Lookup::NotFound => None,
            Lookup::NotAllowed(methods) => panic!("{path}: only {methods}"),
        }
    }

    fn request<'t>(
        table: &'t RouteTable<&'static str>,
        method: Method,
        path: &str,
    ) -> Lookup<'t, &'static str> {
        table.lookup(method, path.as_bytes(), 0, &mut Params::default())
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        let table = RouteTable::<&'static str>::default();
        for path in ["", "/", "*", "/a", "//"] {
            assert_eq!(get(&table, path), None, "{path}");
        }
        assert!(table.is_empty());
        assert_eq!(table.iter().len(), 0);
    }

    #[test]
    fn a_literal_beats_a_parameter_beats_a_catch_all() {
        let table = gets(&["/{*rest}", "/{x}", "/a", "/{x}/b", "/a/{y}"]);
        assert_eq!(get(&table, "/a"), Some(("/a", vec![])));
        assert_eq!(get(&table, "/c"), Some(("/{x}", vec!["c"])));
        assert_eq!(get(&table, "/a/b"), Some(("/a/{y}", vec!["b"])));
        assert_eq!(get(&table, "/c/b"), Some(("/{x}/b", vec!["c"])));
        assert_eq!(get(&table, "/c/d"), Some(("/{*rest}", vec!["c/d"])));
        assert_eq!(get(&table, "/"), None);
    }

    #[test]
    fn a_dead_end_behind_a_literal_is_left_again() {
        let table = gets(&["/a/{x}/c", "/a/b/d", "/{x}/{*rest}"]);
        assert_eq!(get(&table, "/a/b/c"), Some(("/a/{x}/c", vec!["b"])));
        assert_eq!(get(&table, "/a/b/d"), Some(("/a/b/d", vec![])));
        let last = get(&table, "/a/b/e");
        assert_eq!(last, Some(("/{x}/{*rest}", vec!["a", "b/e"])));
    }

    #[test]
    fn parameters_of_a_left_way_do_not_stay() {
        let table = gets(&["/a/{x}/{y}/c", "/{p}/{*rest}", "/a/{x}/{*rest}"]);
        assert_eq!(get(&table, "/a/1/2/c").unwrap().1, ["1", "2"]);
        let shorter = get(&table, "/a/1/2/d");
        assert_eq!(shorter, Some(("/a/{x}/{*rest}", vec!["1", "2/d"])));
        assert_eq!(get(&table, "/a/1"), Some(("/{p}/{*rest}", vec!["a", "1"])));
    }

    #[test]
    fn slashes_and_dots_mean_what_they_say() {
        let table = gets(&["/a", "/b/", "/c//d", "/e/{x}", "/f/{*x}", "/g/../h"]);
        for (path, expected) in [
            ("/a", Some("/a")),
            ("/a/", None),
            ("//a", None),
            ("/b", None),
            ("/b/", Some("/b/")),
            ("/c//d", Some("/c//d")),
            ("/c/d", None),
            ("/e/", None),
            ("/e", None),
            ("/e/x/", None),
            ("/e/..", Some("/e/{x}")),
            ("/f", None),
            ("/f/", None),
            ("/f//", Some("/f/{*x}")),
            ("/f/x/", Some("/f/{*x}")),
            ("/h", None),
            ("/g/../h", Some("/g/../h")),
            ("/x/../a", None),
        ] {
            assert_eq!(get(&table, path).map(|found| found.0), expected, "{path}");
        }
    }

    #[test]
    fn nothing_is_decoded() {
        let table = gets(&["/a/{x}", "/a%2Fb", "/%61"]);
        assert_eq!(get(&table, "/a/x%2Fy"), Some(("/a/{x}", vec!["x%2Fy"])));
        assert_eq!(get(&table, "/a%2Fb"), Some(("/a%2Fb", vec![])));
        assert_eq!(get(&table, "/a%2fb"), None);
        assert_eq!(get(&table, "/%61"), Some(("/%61", vec![])));
        assert_eq!(get(&table, "/a"), None);
    }

    #[test]
    fn a_better_pattern_without_the_method_is_passed_over() {
        let table = table(&[
            (Method::Get, "/a/b"),
            (Method::Post, "/a/{x}"),
            (Method::Delete, "/{*rest}"),
        ]);
        let found = |target, matched_method| Lookup::Found {
            target,
            matched_method,
        };
        use Method::*;
        assert_eq!(request(&table, Post, "/a/b"), found(&"/a/{x}", Post));
        assert_eq!(request(&table, Delete, "/a/b"), found(&"/{*rest}", Delete));
        let allowed = [Get, Head, Post, Delete, Options].into_iter().collect();
        assert_eq!(request(&table, Put, "/a/b"), Lookup::NotAllowed(allowed));
        let allowed = [Post, Delete, Options].into_iter().collect();
        assert_eq!(request(&table, Get, "/a/c"), Lookup::NotAllowed(allowed));
        assert_eq!(request(&table, Get, "/"), Lookup::NotFound);
    }

    #[test]
    fn head_falls_back_to_get_only_if_no_head_route_matches() {
        use Method::*;
        let found = |target, matched_method| Lookup::Found {
            target,
            matched_method,
        };
        let gets_only = table(&[(Get, "/a"), (Post, "/b")]);
        assert_eq!(request(&gets_only, Head, "/a"), found(&"/a", Get));
        let allowed = [Post, Options].into_iter().collect();
        assert_eq!(request(&gets_only, Head, "/b"), Lookup::NotAllowed(allowed));
        assert_eq!(request(&gets_only, Head, "/c"), Lookup::NotFound);
        let both = table(&[(Get, "/a/b"), (Get, "/c/{x}"), (Head, "/a/{x}")]);
        // A HEAD route wins over a better GET route.
        assert_eq!(request(&both, Head, "/a/b"), found(&"/a/{x}", Head));
        let mut params = Params::default();
        let fallen = both.lookup(Head, b"/c/x", 7, &mut params);
        assert_eq!(fallen, found(&"/c/{x}", Get));
        assert_eq!(params.as_slice(), [crate::message::Span::new(10, 1)]);
        assert_eq!(request(&both, Head, "/c"), Lookup::NotFound);
    }

    #[test]
    fn the_first_of_a_shape_stays_and_methods_share_it() {
        let mut builder = RouteTableBuilder::new();
        let parse = |text| Pattern::parse(text).unwrap();
        builder.insert(Method::Get, &parse("/a/{x}"), 1).unwrap();
        builder.insert(Method::Post, &parse("/a/{y}"), 2).unwrap();
        builder.insert(Method::Get, &parse("/a/{*x}"), 3).unwrap();
        for (text, first) in [("/a/{other}", "/a/{x}"), ("/a/{*other}", "/a/{*x}")] {
            let refused = builder.insert(Method::Get, &parse(text), 4).unwrap_err();
            let method = Method::Get;
            let first = parse(first);
            assert_eq!(refused, InsertError::Duplicate { method, first });
            assert!(refused.to_string().contains("GET /a/{"), "{refused}");
        }
        let table = builder.build();
        let listed: Vec<_> = table
            .iter()
            .map(|(route, target)| (route.method, route.pattern.as_str(), *target))
            .collect();
        let expected = [
            (Method::Get, "/a/{x}", 1),
            (Method::Post, "/a/{y}", 2),
            (Method::Get, "/a/{*x}", 3),
        ];
        assert_eq!(listed, expected);
        for (method, expected) in [(Method::Get, 1), (Method::Post, 2)] {
            match table.lookup(method, b"/a/b", 0, &mut Params::default()) {
                Lookup::Found { target, .. } => assert_eq!(*target, expected),
                other => panic!("{method}: {other:?}"),
            }
        }
    }

    #[test]
    fn every_method_of_one_pattern_has_its_own_target() {
        let mut builder = RouteTableBuilder::new();
        let pattern = Pattern::parse("/a").unwrap();
        for method in Method::ALL.into_iter().rev() {
            builder.insert(method, &pattern, method).unwrap();
        }
        let table = builder.build();
        for method in Method::ALL {
            let found = table.lookup(method, b"/a", 0, &mut Params::default());
            let expected = Lookup::Found {
                target: &method,
                matched_method: method,
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn ranges_count_from_the_base_and_never_wrap() {
        let table = gets(&["/a/{x}/{*rest}"]);
        let mut params = Params::default();
        let found = table.lookup(Method::Get, b"/a/bc/d/e", 100, &mut params);
        assert!(matches!(found, Lookup::Found { .. }));
        let ranges: Vec<_> = params.as_slice().iter().map(|span| span.range()).collect();
        assert_eq!(ranges, [103..105, 106..109]);

        let longest = format!("/a/b/{}", "c".repeat(MAX_TARGET - 5));
        let base = MAX_HEAD - MAX_TARGET;
        let found = table.lookup(Method::Get, longest.as_bytes(), base, &mut params);
        assert!(matches!(found, Lookup::Found { .. }));
        assert_eq!(params.as_slice()[1].range(), base + 5..MAX_HEAD);
        for base in [base + 1, usize::MAX] {
            let found = table.lookup(Method::Get, longest.as_bytes(), base, &mut params);
            assert_eq!(found, Lookup::NotFound);
            assert!(params.as_slice().is_empty());
        }
        let endless = format!("/a/b/{}", "c".repeat(MAX_HEAD));
        let found = table.lookup(Method::Get, endless.as_bytes(), 0, &mut params);
        assert_eq!(found, Lookup::NotFound);
    }

    #[test]
    fn padding_is_not_taken_for_a_hole_or_a_label() {
        let labels = [
            "@a",
            "@b",
            "@-bytes",
            "@-sixteen-bytes-",
            "@-seventeen-bytes",
        ];
        let texts = labels.map(|label| format!("/{label}"));
        for seed in 0..100 {
            let mut builder = RouteTableBuilder::with_seed(seed);
            for text in &texts {
                builder
                    .insert(Method::Get, &Pattern::parse(text).unwrap(), ())
                    .unwrap();
            }
            let table = builder.build();
            for begin in labels.iter().copied().chain(["", "@"]) {
                for nuls in 0..40 {
                    for rest in ["", "/", "/@a"] {
                        let path = format!("/{begin}{}{rest}", "\0".repeat(nuls));
                        let found =
                            table.lookup(Method::Get, path.as_bytes(), 0, &mut Params::default());
                        let expected = texts.contains(&path);
                        assert_eq!(found != Lookup::NotFound, expected, "{path:?}, seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn many_children_are_each_found_and_no_others() {
        // Small blocks under many keys, so that children stand in a row past the end of some.
        let small = (2..40).flat_map(|count| (0..40).map(move |seed| (count, seed)));
        for (count, seed) in small.chain([(5000, 0)]) {
            let text = |i: usize| format!("/service-number-{i}/x");
            let mut builder = RouteTableBuilder::with_seed(seed);
            for index in 0..count {
                let pattern = Pattern::parse(&text(index)).unwrap();
                builder.insert(Method::Get, &pattern, index).unwrap();
            }
            let table = builder.build();
            assert_eq!(table.len(), count);
            for index in 0..count + 20 {
                let path = text(index);
                let found = table.lookup(Method::Get, path.as_bytes(), 0, &mut Params::default());
                let expected = match index < count {
                    true => Lookup::Found {
                        target: &index,
                        matched_method: Method::Get,
                    },
                    false => Lookup::NotFound,
                };
                assert_eq!(found, expected, "{path} of {count}, seed {seed}");
            }
        }
    }

    #[test]
    fn blocks_of_every_size_lead_to_their_children_alone() {
        // An empty label, bytes beside the slash, and others that any path may have.
        let firsts: Vec<char> = "-.0:aceghkmorsuwyz~".chars().collect();
        for count in 1..=firsts.len() {
            for weaker in [None, Some("/{p}"), Some("/{*r}")] {
                let labels = firsts[..count].iter().map(|first| format!("/{first}x"));
                let routes: Vec<_> = labels
                    .chain(["/".into()])
                    .chain(weaker.map(String::from))
                    .map(|text| (Method::Get, Pattern::parse(&text).unwrap()))
                    .collect();
                let mut builder = RouteTableBuilder::with_seed(0);
                for (index, (method, pattern)) in routes.iter().enumerate() {
                    builder.insert(*method, pattern, index).unwrap();
                }
                let table = builder.build();
                for first in 0..=u8::MAX {
                    for rest in ["", "x", "y", "x/", "/x", "/"] {
                        let path = [b"/", [first].as_slice(), rest.as_bytes()].concat();
                        let mut params = Params::default();
                        let found = table.lookup(Method::Get, &path, 0, &mut params);
                        let naive = naive_lookup(&routes, Method::Get, &path);
                        match (found, naive) {
                            (Lookup::Found { target, .. }, NaiveLookup::Found { index, .. }) => {
                                assert_eq!(*target, index, "{path:?} among {routes:?}");
                            }
                            (found, naive) => {
                                assert_eq!(found, Lookup::NotFound, "{path:?} among {routes:?}");
                                assert_eq!(naive, NaiveLookup::NotFound);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_label_is_told_from_all_that_differ_in_one_byte() {
        for len in 1..40 {
            let label = "l".repeat(len);
            let path = format!("/{label}");
            let pattern = Pattern::parse(&path).unwrap();
            // It is found by its first byte; beside another that begins alike, by its hash.
            for beside in ["/other", "/like"] {
                let mut builder = RouteTableBuilder::with_seed(0);
                builder.insert(Method::Get, &pattern, 0).unwrap();
                let beside = Pattern::parse(beside).unwrap();
                builder.insert(Method::Get, &beside, 1).unwrap();
                let table = builder.build();
                let find = |path: &[u8]| table.lookup(Method::Get, path, 0, &mut Params::default());
                assert!(matches!(
                    find(path.as_bytes()),
                    Lookup::Found { target: 0, .. }
                ));
                for at in 1..=len {
                    let mut other = path.clone().into_bytes();
                    other[at] = b'm';
                    assert_eq!(find(&other), Lookup::NotFound, "{len} bytes, {at}");
                }
                assert_eq!(find(format!("{path}l").as_bytes()), Lookup::NotFound);
                assert_eq!(find(&path.as_bytes()[..len]), Lookup::NotFound);
            }
        }
    }
}
