//! Which server an address is of, and where a redirect may lead.

use ureq::http::Uri;

/// The scheme, host and port of an address; they decide who gets the token.
#[derive(PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// None if the address is none of the web.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let standard = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        Some(Self {
            host: uri
                .host()
                .filter(|host| !host.is_empty())?
                .to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(standard),
            scheme,
        })
    }

    /// Whether the server runs where this does.
    pub(super) fn is_this_machine(&self) -> bool {
        let address = self
            .host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

/// The address that a redirect points to, if it may be followed: on the web, and as encrypted as before.
pub(super) fn redirect(from: &Uri, location: &str) -> Option<Uri> {
    let target: Uri = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", from.scheme_str()?, from.authority()?)
            .parse()
            .ok()?
    } else {
        location.parse().ok()?
    };
    let (from, to) = (Origin::of(from)?, Origin::of(&target)?);
    let is_downgrade = from.scheme == "https" && to.scheme == "http";
    (!is_downgrade).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_web_and_encrypted() {
        let from: Uri = "https://hub.co/a/b".parse().unwrap();
        let to = |location| redirect(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/c?d=1").unwrap(), "https://hub.co/c?d=1");
        assert_eq!(to("https://cdn.co/x").unwrap(), "https://cdn.co/x");
        let plain: Uri = "http://hub.co/a/b".parse().unwrap();
        assert!(redirect(&plain, "http://cdn.co/x").is_some());
        assert!(redirect(&plain, "//cdn.co/x").is_none());
        for location in [
            "",
            "c",
            "//evil.co/x",
            "http://cdn.co/x",
            "file:///etc/passwd",
            "ftp://a/b",
            "https:///x",
        ] {
            assert_eq!(to(location), None, "{location}");
        }
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        assert!(origin("https://Hub.co/x") == origin("https://hub.co:443"));
        assert!(origin("https://hub.co") != origin("http://hub.co"));
        assert!(origin("https://hub.co") != origin("https://hub.co:444"));
        assert!(origin("https://hub.co") != origin("https://hub.co.evil.co"));
        for text in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost"] {
            assert!(origin(text).is_this_machine(), "{text}");
        }
        assert!(!origin("http://127.evil.co").is_this_machine());
    }
}
