//! On which line of the file a key stands.
//!
//! The YAML library keeps no places, but its errors have one: so the file is read once more, by a reader that fails at
//! the key.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line of a key such as `common.nsqd[1]`, counted from 1; that of its section if the key is not there, and that of
/// the mistake if the file is not YAML.
pub(super) fn line_of(yaml: &str, path: &str) -> Option<usize> {
    let error = if path.is_empty() {
        serde_yaml::from_str::<serde_yaml::Value>(yaml).err()
    } else {
        Find { steps: &steps(path) }.deserialize(serde_yaml::Deserializer::from_str(yaml)).err()
    };
    error?.location().map(|place| place.line())
}

enum Step<'a> {
    Key(&'a str),
    Item(usize),
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        steps.extend(pieces.next().map(Step::Key));
        steps.extend(pieces.filter_map(|item| item.strip_suffix(']')?.parse().ok().map(Step::Item)));
    }
    steps
}

/// Fails, in any case: where the steps lead to, or as near to it as there is something.
struct Find<'a> {
    steps: &'a [Step<'a>],
}

fn here<E: Error>() -> E {
    E::custom("here")
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

/// Whatever is neither fails by itself, and in the right place.
impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(name), rest)) = self.steps.split_first() else { return Err(here()) };
        while let Some(is_it) = map.next_key_seed(IsIt { name, is_last: rest.is_empty() })? {
            if is_it {
                return map.next_value_seed(Find { steps: rest });
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(here())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Item(index), rest)) = self.steps.split_first() else { return Err(here()) };
        for _ in 0..*index {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Err(here());
            }
        }
        list.next_element_seed(Find { steps: rest })?;
        Err(here())
    }
}

/// Whether a key is the one that is looked for; if it is the last of them, that is the place.
struct IsIt<'a> {
    name: &'a str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for IsIt<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for IsIt<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        if key == self.name && self.is_last { Err(here()) } else { Ok(key == self.name) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YAML: &str = "# The first line.
name: x
common:
  nsqlookupd:
    - { http_port: 4161 }
    - addr: a b
      http_port: 1
  nsqd: ['a:1',
    'b']
gateway: {listen: abc, retry_budget: {
  percent: 1000}}
timeouts: 5
";

    #[test]
    fn each_key_is_found_where_it_stands() {
        for (path, line) in [
            ("name", 2),
            ("common", 3),
            ("common.nsqlookupd", 4),
            ("common.nsqlookupd[0].http_port", 5),
            ("common.nsqlookupd[1].addr", 6),
            ("common.nsqlookupd[1].http_port", 7),
            ("common.nsqd[0]", 8),
            ("common.nsqd[1]", 9),
            ("gateway.listen", 10),
            ("gateway.retry_budget.percent", 11),
            ("timeouts", 12),
        ] {
            assert_eq!(line_of(YAML, path), Some(line), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_where_it_would_be() {
        for (path, line) in [("common.nsqlookupd[0].addr", 5), ("timeouts.drain", 12), ("common.nsqd[7]", 8)]
        {
            assert_eq!(line_of(YAML, path), Some(line), "{path}");
        }
        assert_eq!(line_of("a: 1\nb: [\n", ""), Some(3), "not YAML");
        assert_eq!(line_of("gateway: {a: 1, a: 2}", ""), Some(1), "not YAML either");
        assert_eq!(line_of("[]", ""), None, "the file as a whole");
        assert_eq!(line_of("", "gateway.listen"), Some(1), "nothing at all");
    }

    proptest! {
        #[test]
        fn any_text_and_path_has_a_line_in_it_or_none(yaml in "(?s).{0,200}", path in ".{0,40}") {
            if let Some(line) = line_of(&yaml, &path) {
                // To YAML 1.1 each of these ends a line (§5.4), and so does the end of the file.
                let ends = yaml.matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
                prop_assert!((1..=ends + 2).contains(&line));
            }
        }
    }
}
