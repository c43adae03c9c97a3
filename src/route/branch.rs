//! What a route table grows from: one branch for each place that a pattern can reach. Only data; who
//! may grow is the builder's business.

use std::collections::BTreeMap;

use crate::message::Method;

/// A place in the tree while it grows: one node per segment.
#[derive(Debug, Default)]
pub(super) struct Branch {
    pub literals: BTreeMap<Box<[u8]>, u32>,
    pub param: Option<u32>,
    /// Routes that end here, with their index in the order of registration.
    pub here: Vec<(Method, u32)>,
    /// Routes that end in a catch-all below here.
    pub rest: Vec<(Method, u32)>,
    /// Most ways down from here that a search can have to follow: the sum of the worst literal
    /// child, the parameter child and the catch-all, at least one.
    pub trails: usize,
    /// The largest `trails` among the literal children; zero if there are none.
    pub literal_trails: usize,
}

/// How one branch is reached from the one above.
pub(super) enum Entry<'a> {
    Literal(&'a [u8]),
    Param,
}

impl Branch {
    pub(super) fn child(&self, entry: &Entry<'_>) -> Option<u32> {
        match entry {
            Entry::Literal(label) => self.literals.get(*label).copied(),
            Entry::Param => self.param,
        }
    }

    pub(super) fn routes(&self, ends_in_catch_all: bool) -> &[(Method, u32)] {
        if ends_in_catch_all {
            &self.rest
        } else {
            &self.here
        }
    }

    pub(super) fn routes_mut(&mut self, ends_in_catch_all: bool) -> &mut Vec<(Method, u32)> {
        if ends_in_catch_all {
            &mut self.rest
        } else {
            &mut self.here
        }
    }

    /// The only thing that can follow, if that is a literal.
    pub(super) fn only_literal(&self) -> Option<(&[u8], u32)> {
        if self.param.is_some() || !self.here.is_empty() || !self.rest.is_empty() {
            return None;
        }
        let mut literals = self.literals.iter();
        match (literals.next(), literals.next()) {
            (Some((label, child)), None) => Some((label, *child)),
            _ => None,
        }
    }
}
