//! What a client of `GET /dataservers` wants to see: one path, and the form that its `Accept` prefers (RFC 9110 §12.5.1).

use http::{HeaderMap, header};

/// The forms that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For programs; also for whoever does not say, or accepts none of the forms.
    Json,
    /// For people.
    Page,
    /// What the page listens to.
    Stream,
}

impl Form {
    /// JSON before the others where they are as welcome.
    const ALL: [(Self, &'static str); 3] =
        [(Self::Json, "application/json"), (Self::Page, "text/html"), (Self::Stream, "text/event-stream")];

    pub(super) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let ranges: Vec<_> = lines.flat_map(|line| line.split(',')).filter_map(Range::parse).collect();
        let (mut best, mut best_weight) = (Self::Json, 0);
        for (form, media_type) in Self::ALL {
            let weight = weight(&ranges, media_type);
            if weight > best_weight {
                (best, best_weight) = (form, weight);
            }
        }
        best
    }
}

/// One of the media ranges in an `Accept`.
struct Range<'a> {
    media_type: &'a str,
    /// In thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    /// `None` if it is none, or is for a variant that we do not have.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next()?;
        let mut weight = 1000;
        for parameter in parts {
            let (name, value) = parameter.split_once('=')?;
            if name.eq_ignore_ascii_case("q") {
                weight = thousandths(value)?;
            } else if !name.eq_ignore_ascii_case("charset") {
                return None;
            }
        }
        Some(Self { media_type, weight })
    }

    /// How closely it names a media type, if it covers it.
    fn names(&self, media_type: &str) -> Option<u8> {
        if self.media_type.eq_ignore_ascii_case(media_type) {
            return Some(2);
        }
        if self.media_type == "*/*" {
            return Some(0);
        }
        let family = self.media_type.strip_suffix("/*")?;
        media_type.split('/').next()?.eq_ignore_ascii_case(family).then_some(1)
    }
}

/// A weight of at most three decimals (RFC 9110 §12.4.2).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let decimals: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(decimals),
        "1" if decimals == 0 => Some(1000),
        _ => None,
    }
}

/// Of the ranges that cover a media type, the weight of the one that names it most closely.
fn weight(ranges: &[Range<'_>], media_type: &str) -> u16 {
    let covering = ranges.iter().filter_map(|range| Some((range.names(media_type)?, range.weight)));
    covering.max_by_key(|(closeness, _)| *closeness).map_or(0, |(_, weight)| weight)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn form(lines: &[&str]) -> Form {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT, HeaderValue::from_str(line).unwrap());
        }
        Form::of(&headers)
    }

    #[test]
    fn browsers_get_the_page_and_everybody_else_json() {
        for (accept, expected) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
                Form::Page,
            ),
            ("text/html;q=0.5, text/*;q=0.1", Form::Page),
            ("TEXT/HTML;charset=utf-8", Form::Page),
            ("text/event-stream", Form::Stream),
            ("text/event-stream, */*;q=0.1", Form::Stream),
            ("*/*", Form::Json),
            ("application/json", Form::Json),
            ("application/json, text/plain, */*", Form::Json),
            ("application/*, text/html", Form::Json),
            ("text/html;q=0.9, application/json", Form::Json),
            ("text/html;q=0, */*", Form::Json),
            ("text/html;q=2", Form::Json),
            ("text/html;level=1", Form::Json),
            ("image/png", Form::Json),
            (";;,=,/", Form::Json),
            ("", Form::Json),
        ] {
            assert_eq!(form(&[accept]), expected, "{accept}");
        }
        assert_eq!(form(&[]), Form::Json);
        assert_eq!(form(&["application/json;q=0.1", "text/html"]), Form::Page, "two lines");
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read(accept in "[ -~]{0,60}", ranges in "([a-z*]/[a-z*];q=[0-9.]{0,4},?){0,4}") {
            form(&[&accept, &ranges]);
        }

        #[test]
        fn a_form_that_alone_is_named_is_got(index in 0usize..3, weight in 1u16..=999) {
            let (expected, name) = Form::ALL[index];
            prop_assert_eq!(form(&[&format!("{name};q=0.{weight:03}")]), expected);
        }
    }
}
