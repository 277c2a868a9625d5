//! The fields of a head.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields in the order in which they came. Names may repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

/// What a field can be looked up by.
pub trait Name {
    /// Whether this is the name, in whatever case it is written.
    fn is(&self, name: &HeaderName) -> bool;
}

impl Name for HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl Name for &HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        *self == name
    }
}

impl Name for &str {
    fn is(&self, name: &HeaderName) -> bool {
        name == *self
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a name is a constant, most often")]
impl Fields {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.0.reserve(more);
    }

    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The name of each of them, in order.
    pub fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// Whether there is one of this name.
    pub fn contains_key(&self, name: impl Name) -> bool {
        self.keys().any(|other| name.is(other))
    }

    /// The value of the first one of this name.
    pub fn get(&self, name: impl Name) -> Option<&HeaderValue> {
        self.get_all(name).next()
    }

    /// How many there are of this name.
    pub fn count(&self, name: impl Name) -> usize {
        self.get_all(name).count()
    }

    /// The values of all of this name, in order.
    pub fn get_all<N: Name>(&self, name: N) -> impl Iterator<Item = &HeaderValue> + use<'_, N> {
        self.0.iter().filter(move |(other, _)| name.is(other)).map(|(_, value)| value)
    }

    /// Adds one after all the others.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Makes it the only one of this name, where the first one stood.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(first) = self.0.iter().position(|(other, _)| *other == name) else {
            return self.append(name, value);
        };
        let mut at = 0;
        self.0.retain(|(other, _)| {
            at += 1;
            at - 1 <= first || *other != name
        });
        if let Some(place) = self.0.get_mut(first) {
            *place = (name, value);
        }
    }

    /// Adds it if there is none of this name.
    pub fn insert_if_absent(&mut self, name: HeaderName, value: HeaderValue) {
        if !self.contains_key(&name) {
            self.append(name, value);
        }
    }

    /// Removes all of this name.
    pub fn remove(&mut self, name: impl Name) {
        self.retain(|other| !name.is(other));
    }

    /// Removes all but those of which this is so.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }
}

impl Extend<(Option<HeaderName>, HeaderValue)> for Fields {
    /// As a [`HeaderMap`] gives them away: without a name it is one more of the name before.
    fn extend<I: IntoIterator<Item = (Option<HeaderName>, HeaderValue)>>(&mut self, fields: I) {
        let mut last = None;
        for (name, value) in fields {
            last = name.or(last);
            if let Some(name) = &last {
                self.append(name.clone(), value);
            }
        }
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::default();
        fields.extend(map);
        fields
    }
}

impl From<&mut Fields> for HeaderMap {
    /// Takes them out.
    fn from(fields: &mut Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        for (name, value) in fields.0.drain(..) {
            map.append(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;

    const NAMES: [HeaderName; 4] =
        [header::HOST, header::VIA, HeaderName::from_static("x-one"), HeaderName::from_static("x-two")];

    #[derive(Debug, Clone)]
    enum Change {
        Append(usize, u16),
        Insert(usize, u16),
        Remove(usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..NAMES.len(), any::<u16>()).prop_map(|(name, value)| Change::Append(name, value)),
            (0..NAMES.len(), any::<u16>()).prop_map(|(name, value)| Change::Insert(name, value)),
            (0..NAMES.len()).prop_map(Change::Remove),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_them_a_map_would_say_the_same(changes in prop::collection::vec(change(), 0..40)) {
            let (mut fields, mut map) = (Fields::default(), HeaderMap::new());
            for change in changes {
                match change {
                    Change::Append(n, value) => {
                        fields.append(NAMES[n].clone(), value.into());
                        map.append(&NAMES[n], value.into());
                    }
                    Change::Insert(n, value) => {
                        fields.insert(NAMES[n].clone(), value.into());
                        map.insert(&NAMES[n], value.into());
                    }
                    Change::Remove(n) => {
                        fields.remove(&NAMES[n]);
                        map.remove(&NAMES[n]);
                    }
                }
            }
            prop_assert_eq!(fields.len(), map.len());
            for name in &NAMES {
                prop_assert_eq!(fields.get(name), map.get(name));
                prop_assert_eq!(fields.contains_key(name.as_str()), map.contains_key(name));
                let all: Vec<_> = fields.get_all(name).collect();
                prop_assert_eq!(all, map.get_all(name).iter().collect::<Vec<_>>());
            }
            let mut again = Fields::from(map.clone());
            prop_assert_eq!(HeaderMap::from(&mut again), map);
        }
    }

    #[test]
    fn they_stay_in_order_and_one_that_is_said_anew_stays_in_its_place() {
        let mut fields = Fields::default();
        for (n, name) in [0, 1, 0, 2].into_iter().enumerate() {
            fields.append(NAMES[name].clone(), n.into());
        }
        fields.insert(NAMES[0].clone(), 9.into());
        let said: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(said, [("host", "9"), ("via", "1"), ("x-one", "3")]);
    }
}
