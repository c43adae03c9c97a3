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
/// Each segment of the path costs one hash and one probe, whatever the number of routes. Where a
/// literal and a parameter both match a segment and the literal turns out a dead end, the parameter
/// is tried. A search therefore follows at most [`RouteTable::worst_trails`] ways through the tree
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
