//! What is at the demo's root: a page for browsers, a line of text for everybody else. The page is one
//! file and asks nobody but the hub for anything.

use crate::message::Method;
use crate::worker::{Request, Response};

const PAGE: &str = include_str!("page.html");
/// Where the page names what allows its own style and script, and no other.
const NONCE: &str = "{nonce}";

/// The answer at `/`.
pub fn root(req: &Request) -> Response {
    let reads = matches!(req.method(), Method::Get | Method::Head);
    if reads && req.header("accept").is_some_and(prefers_html) {
        return page();
    }
    let text = format!("{} / answered by the slotway demo worker\n", req.method());
    Response::text(text).header("vary", "accept")
}

fn page() -> Response {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    Response::html(PAGE.replace(NONCE, &nonce))
        .header("content-security-policy", policy)
        // A nonce is for one answer.
        .header("cache-control", "no-store")
        .header("vary", "accept")
        .header("x-content-type-options", "nosniff")
        .header("referrer-policy", "no-referrer")
        // Without other origins around, browsers give the page a clock that tells microseconds.
        .header("cross-origin-opener-policy", "same-origin")
        .header("cross-origin-embedder-policy", "require-corp")
}

/// Whether HTML is named, and wanted at least as much as anything and more than plain text (RFC 9110,
/// section 12.5.1). Browsers do that; `*/*` alone does not.
fn prefers_html(accept: &[u8]) -> bool {
    let quality = |wanted: &str| {
        let ranges = accept.split(|byte| *byte == b',');
        let mut named = ranges.filter_map(|range| {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let is_wanted = parts.next()?.eq_ignore_ascii_case(wanted.as_bytes());
            is_wanted.then(|| parts.find_map(weight).unwrap_or(1.0))
        });
        named.next()
    };
    let others = [quality("text/*"), quality("*/*")];
    quality("text/html").is_some_and(|html| {
        html > quality("text/plain").unwrap_or(0.0)
            && others.into_iter().flatten().all(|other| html >= other)
    })
}

/// The value of a parameter `q`; what is no number counts as nothing.
fn weight(parameter: &[u8]) -> Option<f32> {
    let value = parameter
        .strip_prefix(b"q=")
        .or(parameter.strip_prefix(b"Q="))?;
    let value = std::str::from_utf8(value).ok()?;
    Some(value.parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_prefer_html_and_others_do_not() {
        for accept in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
            "text/html",
            "TEXT/HTML, */*",
            "text/plain;q=0.5, text/html;level=1;q=0.7",
        ] {
            assert!(prefers_html(accept.as_bytes()), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/*",
            "text/plain, text/html",
            "text/html;q=0",
            "text/html;q=x",
            "text/html;q=0.5, */*",
            "application/json",
        ] {
            assert!(!prefers_html(accept.as_bytes()), "{accept}");
        }
        assert!(!prefers_html(b"\xff\xfe;q=\xff,,;"));
    }

    #[test]
    fn the_page_is_small_and_whole() {
        assert!(PAGE.len() <= 12 * 1024, "{} bytes", PAGE.len());
        assert_eq!(PAGE.matches(NONCE).count(), 2, "one style and one script");
        for outside in ["http://", "https://", "//cdn", "@import"] {
            let found = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(outside), "{outside}");
        }
    }
}
