//! A set of request methods in one byte, and how an `Allow` field spells it. It never allocates.

use std::fmt;

use crate::message::Method;

/// A set of request methods; bit `n` stands for the method whose discriminant is `n`.
///
/// Its `Display` form is the value of an `Allow` field (RFC 9110, section 10.2.1), for example
/// `GET, HEAD, OPTIONS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MethodSet(u8);

impl MethodSet {
    /// The set without a member.
    pub const EMPTY: MethodSet = MethodSet(0);

    /// The set of just this method.
    pub const fn only(method: Method) -> MethodSet {
        MethodSet(1 << method as u8)
    }

    /// Adds a method.
    pub const fn insert(&mut self, method: Method) {
        self.0 |= 1 << method as u8;
    }

    /// This set and `other` together.
    #[must_use]
    pub const fn union(self, other: MethodSet) -> MethodSet {
        MethodSet(self.0 | other.0)
    }

    /// Whether the method is a member.
    pub const fn contains(self, method: Method) -> bool {
        self.0 & (1 << method as u8) != 0
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members in the order of their discriminants.
    pub fn iter(self) -> impl Iterator<Item = Method> {
        Method::ALL.into_iter().filter(move |m| self.contains(*m))
    }

    /// What a resource with these routes answers to: GET brings HEAD along (RFC 9110, section
    /// 9.3.2), and the hub itself can always answer OPTIONS.
    #[must_use]
    pub const fn with_implied(mut self) -> MethodSet {
        if self.contains(Method::Get) {
            self.insert(Method::Head);
        }
        self.insert(Method::Options);
        self
    }

    /// Appends the value of an `Allow` field to a response head that is being written. At most 51
    /// bytes, so a buffer with that much room left is not reallocated.
    pub fn append_allow(self, out: &mut Vec<u8>) {
        let mut first = true;
        for method in self.iter() {
            if !first {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(method.as_str().as_bytes());
            first = false;
        }
    }

    /// How many members come before this method in the order of discriminants.
    pub(super) const fn rank(self, method: Method) -> usize {
        (self.0 & ((1 << method as u8) - 1)).count_ones() as usize
    }
}

impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, method) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(method.as_str())?;
        }
        Ok(())
    }
}

impl FromIterator<Method> for MethodSet {
    fn from_iter<I: IntoIterator<Item = Method>>(methods: I) -> MethodSet {
        let mut set = MethodSet::EMPTY;
        for method in methods {
            set.insert(method);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_listed_in_order_and_both_spellings_agree() {
        for bits in 0..=u8::MAX {
            let set = MethodSet(bits);
            let listed: Vec<Method> = set.iter().collect();
            assert!(listed.is_sorted());
            assert_eq!(listed.len(), set.len());
            assert_eq!(listed.iter().copied().collect::<MethodSet>(), set);
            for (rank, method) in listed.iter().enumerate() {
                assert_eq!(set.rank(*method), rank);
            }
            let mut field = Vec::new();
            set.append_allow(&mut field);
            assert_eq!(field, set.to_string().into_bytes());
            assert!(field.len() <= 51, "{} bytes", field.len());
        }
    }

    #[test]
    fn allow_lists_what_is_implied() {
        let get = MethodSet::only(Method::Get).with_implied();
        assert_eq!(get.to_string(), "GET, HEAD, OPTIONS");
        let post = MethodSet::only(Method::Post).with_implied();
        assert_eq!(post.to_string(), "POST, OPTIONS");
    }
}
