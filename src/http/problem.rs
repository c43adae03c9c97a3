//! The body of the hub's own error answers: problem details as JSON (RFC 9457). Never includes
//! anything that the caller did not pass.

use serde::Serialize;

use super::status::reason;

/// The media type of [`problem_body`].
pub const PROBLEM_TYPE: &str = "application/problem+json";

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    /// An extension member (RFC 9457, section 3.2).
    action: &'a str,
}

/// A JSON object with the members `type` (`about:blank`), `title` (the reason phrase), `status`,
/// `detail` (what is wrong) and `action` (what the reader can do about it). Both texts are escaped.
pub fn problem_body(status: u16, detail: &str, action: &str) -> Vec<u8> {
    let problem = Problem {
        // RFC 9457, section 4.2.1: the title of `about:blank` is the status code's phrase.
        r#type: "about:blank",
        title: reason(status),
        status,
        detail,
        action,
    };
    simd_json::to_vec(&problem).expect("texts and a number always serialise into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Read {
        r#type: String,
        title: String,
        status: u16,
        detail: String,
        action: String,
    }

    #[test]
    fn is_the_documented_object() {
        let body = problem_body(404, "no route for /x", "Register one.");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no route for /x","action":"Register one."}"#
        );
    }

    #[test]
    fn hostile_text_survives() {
        let mut detail: String = (0u8..=0x7f).map(char::from).collect();
        detail.push_str("\"\\</script>\u{80}\u{2028}\u{fffd}\u{10ffff}");
        let mut body = problem_body(599, &detail, "\\\"");
        assert!(!body.iter().any(|&b| b < 0x20), "no raw control character");
        let read: Read = simd_json::from_slice(&mut body).unwrap();
        assert_eq!(read.detail, detail);
        assert_eq!(read.action, "\\\"");
        assert_eq!((read.status, read.title.as_str()), (599, ""));
        assert_eq!(read.r#type, "about:blank");
    }
}
