//! Which redirects are followed. The token is not decided here: it goes to the service's own origin only, wherever a redirect leads.

use super::{Body, HttpError, Method, Request, origin};
use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};

/// Whether a status is a redirect.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads; an error if it must not be followed.
pub(super) fn target(request: &Request<'_>, from: &Url, status: StatusCode, location: Option<&HeaderValue>) -> Result<Url, HttpError> {
    let refuse = |why: &str| HttpError::InvalidResponse(format!("`{}{}` {why}", origin(from), from.path()));
    let to = location.and_then(|to| from.join(to.to_str().ok()?).ok()).ok_or_else(|| refuse("redirects to no address"))?;
    if !matches!(to.scheme(), "http" | "https") || from.scheme() == "https" && to.scheme() == "http" {
        return Err(refuse(&format!("redirects to `{}`, which is not HTTPS", origin(&to))));
    }
    // These turn every other method into GET, which would do something else than what was asked.
    if request.method != Method::GET && !matches!(status.as_u16(), 307 | 308) {
        return Err(refuse(&format!("redirects a request that changes something to `{}`", origin(&to))));
    }
    // Such bodies may hold a secret; files are what is being published.
    if matches!(request.body, Body::Json(_) | Body::Bytes(..)) && to.origin() != from.origin() {
        return Err(refuse(&format!("redirects to another server, `{}`", origin(&to))));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    #[test]
    fn redirects_are_followed_only_where_that_is_safe() {
        let file = Path::new("f");
        let (json, bytes) = (|| Body::Json(Value::Null), || Body::Bytes(Vec::new(), String::new()));
        let upload = || Body::File(file, 0..1, "x");
        for (method, body, status, from, to, followed) in [
            (Method::GET, Body::Empty, 302, "https://h/a", Some("https://cdn/b"), Some("https://cdn/b")),
            (Method::GET, Body::Empty, 307, "https://h/a/b", Some("c"), Some("https://h/a/c")),
            (Method::GET, Body::Empty, 302, "http://h/a", Some("https://h/a"), Some("https://h/a")),
            (Method::GET, Body::Empty, 302, "https://h/a", Some("http://h/a"), None),
            (Method::GET, Body::Empty, 302, "https://h/a", Some("file:///etc/passwd"), None),
            (Method::GET, Body::Empty, 302, "https://h/a", None, None),
            (Method::POST, json(), 307, "https://h/old", Some("/new"), Some("https://h/new")),
            (Method::POST, json(), 308, "https://h/old", Some("https://other/new"), None),
            (Method::POST, json(), 302, "https://h/old", Some("/new"), None),
            (Method::POST, bytes(), 307, "https://h/old", Some("https://other/new"), None),
            (Method::PUT, upload(), 307, "https://s3/a", Some("https://s3.region/a"), Some("https://s3.region/a")),
            (Method::PUT, upload(), 303, "https://s3/a", Some("https://s3/a"), None),
        ] {
            let request = Request::new(method, from, body);
            let location = to.map(|to| HeaderValue::from_str(to).unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            let found = target(&request, &Url::parse(from).unwrap(), status, location.as_ref());
            assert_eq!(found.ok().map(String::from).as_deref(), followed, "{} {status} {from} {to:?}", request.method);
        }
    }
}
