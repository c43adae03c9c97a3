//! What the routes of a service are taken to be where lookups are measured.

/// Some below each other, and a literal beside a parameter.
pub const USUAL: [&str; 5] = [
    "status",
    "items/latest",
    "items/{id}",
    "orgs/{org}/teams/{team}/members/{member}/roles/{role}",
    "files/{*path}",
];

/// All beside each other, and some that begin alike.
pub const CROWDED: [&str; 5] = [
    "items/latest",
    "items/list",
    "items/lost",
    "items/{id}",
    "items/{id}/parts",
];

const NOUNS: [&str; 8] = [
    "accounts",
    "billing",
    "catalog",
    "devices",
    "events-log",
    "forms",
    "geo",
    "identity",
];

/// Path of the service with this number. The first eight begin differently, those after them like one
/// of these.
pub fn service(number: usize) -> String {
    format!("/{}-{number}", NOUNS[number % NOUNS.len()])
}
