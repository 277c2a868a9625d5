//! The fields of a head.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::name::{Name, Names};

/// What stands between a name and its value.
const COLON: &[u8] = b": ";

/// What ends a line.
const END: &[u8] = b"\r\n";

/// Fields in the order in which they came. Names may repeat.
///
/// They are kept as HTTP/1 writes them, one line after the other, so that there is one piece of memory for all of them
/// and a line is written as it stands. Names are in lower case. Nothing goes in that would end a line early: that is
/// seen to by the types, or by the parser.
#[derive(Clone, Default)]
pub struct Fields {
    /// The lines, and those that were removed since.
    text: Vec<u8>,
    lines: Vec<Line>,
    /// The names that may be among them: most of what is looked for is not there.
    names: Names,
}

/// Where a line is in the text. It stays there: nothing is taken out of the text before all is, and the lines with it.
#[derive(Clone, Copy)]
struct Line {
    name: Option<Name>,
    start: usize,
    colon: usize,
    end: usize,
}

impl Line {
    fn of(self, text: &[u8]) -> Field<'_> {
        Field { line: self, text }
    }

    /// Where its value is: every line has the two that stand around it.
    fn value(self) -> Range<usize> {
        self.colon + COLON.len()..self.end - END.len()
    }
}

/// One field.
#[derive(Clone, Copy)]
pub struct Field<'f> {
    line: Line,
    text: &'f [u8],
}

impl<'f> Field<'f> {
    /// Its name, if it is one of those.
    pub fn name(self) -> Option<Name> {
        self.line.name
    }

    /// Whether its name is one of these.
    pub fn is_one_of(self, names: Names) -> bool {
        self.line.name.is_some_and(|name| names.contains(name))
    }

    /// Its name as it is written, in lower case.
    pub fn written_name(self) -> &'f [u8] {
        self.text.get(self.line.start..self.line.colon).unwrap_or_default()
    }

    /// What it says, without what may stand around it.
    pub fn value(self) -> &'f [u8] {
        self.text.get(self.line.value()).unwrap_or_default()
    }

    /// All of it as HTTP/1 has it, with the end of the line.
    pub fn line(self) -> &'f [u8] {
        self.text.get(self.line.start..self.line.end).unwrap_or_default()
    }
}

impl Fields {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Makes room for so many more, with so many bytes of names and values.
    pub(super) fn reserve(&mut self, more: usize, bytes: usize) {
        self.lines.reserve(more);
        self.text.reserve(bytes + more * (COLON.len() + END.len()));
    }

    /// How many there is room for, and for how many bytes.
    pub(super) fn capacity(&self) -> (usize, usize) {
        (self.lines.capacity(), self.text.capacity())
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.text.clear();
        self.names = Names::default();
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.lines.iter().map(|line| line.of(&self.text))
    }

    /// Whether there is one of this name.
    pub fn contains(&self, name: Name) -> bool {
        self.get(name).is_some()
    }

    /// Whether there may be one of these names.
    pub fn may_contain(&self, names: Names) -> bool {
        self.names.meets(names)
    }

    /// The value of the first one of this name.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// How many there are of this name.
    pub fn count(&self, name: Name) -> usize {
        self.get_all(name).count()
    }

    /// The values of all of this name, in order.
    pub fn get_all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let lines = if self.names.contains(name) { &self.lines[..] } else { &[] };
        lines.iter().filter(move |line| line.name == Some(name)).map(|line| line.of(&self.text).value())
    }

    /// Adds one after all the others.
    pub fn append(&mut self, name: Name, value: &HeaderValue) {
        let start = self.begin_line(name);
        self.text.extend_from_slice(value.as_bytes());
        self.end_line(Some(name), start, name.as_bytes().len());
    }

    /// Adds one after all the others that says what the first one of another name says, if there is one.
    pub fn append_as(&mut self, name: Name, other: Name) {
        if let Some(line) = self.lines.iter().find(|line| line.name == Some(other)) {
            let value = line.value();
            let start = self.begin_line(name);
            self.text.extend_from_within(value); // a line is always within the text
            self.end_line(Some(name), start, name.as_bytes().len());
        }
    }

    /// Adds one after all the others, of which is known that the name is a token, in whatever case, and that the value has
    /// no control characters but tabs.
    pub(crate) fn append_checked(&mut self, name: &[u8], value: &[u8]) {
        let (start, length) = (self.text.len(), name.len());
        self.text.extend(name.iter().map(u8::to_ascii_lowercase));
        let name = Name::of(self.text.get(start..).unwrap_or_default());
        self.text.extend_from_slice(COLON);
        self.text.extend_from_slice(value);
        self.end_line(name, start, length);
    }

    /// Writes a line up to its value. Returns where it begins.
    fn begin_line(&mut self, name: Name) -> usize {
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(COLON);
        start
    }

    fn end_line(&mut self, name: Option<Name>, start: usize, length: usize) {
        self.text.extend_from_slice(END);
        self.lines.push(Line { name, start, colon: start + length, end: self.text.len() });
        if let Some(name) = name {
            self.names.insert(name);
        }
    }

    /// Makes it the only one of this name, where the first one stood.
    pub fn insert(&mut self, name: Name, value: &HeaderValue) {
        self.keep_first(name);
        let first = self.lines.iter().position(|line| line.name == Some(name));
        self.append(name, value);
        if let Some(first) = first {
            self.lines.swap_remove(first); // puts the last in its place; it is there, and one more than before
        }
    }

    /// Removes all of this name but the first.
    pub fn keep_first(&mut self, name: Name) {
        if self.names.contains(name) {
            let mut is_first = true;
            self.retain(|field| field.name() != Some(name) || std::mem::take(&mut is_first));
        }
    }

    /// Removes all of this name.
    pub fn remove(&mut self, name: Name) {
        self.remove_all(Names::of(&[name]));
    }

    /// Removes all of these names.
    pub fn remove_all(&mut self, names: Names) {
        if self.may_contain(names) {
            self.retain(|field| !field.is_one_of(names));
        }
    }

    /// Removes all but those of which this is so.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let Self { text, lines, .. } = self;
        lines.retain(|line| keep(line.of(text)));
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().map(Field::line).eq(other.iter().map(Field::line))
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        f.debug_list()
            .entries(self.iter().map(|field| (text(field.written_name()), text(field.value()))))
            .finish()
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let mut fields = Self::default();
        fields.extend(map);
        fields
    }
}

impl<'m> Extend<(&'m HeaderName, &'m HeaderValue)> for Fields {
    fn extend<I: IntoIterator<Item = (&'m HeaderName, &'m HeaderValue)>>(&mut self, fields: I) {
        for (name, value) in fields {
            self.append_checked(name.as_str().as_bytes(), value.as_bytes());
        }
    }
}

impl From<&Fields> for HeaderMap {
    fn from(fields: &Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        // One copy, of which the values are slices.
        let text = Bytes::copy_from_slice(&fields.text);
        for line in &fields.lines {
            let field = line.of(&text);
            let value = HeaderValue::from_maybe_shared(text.slice_ref(field.value()));
            // They were checked when they went in.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(field.written_name()), value) {
                map.append(name, value);
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [Name; 4] = [Name::Host, Name::Via, Name::Te, Name::Allow];

    fn header(name: Name) -> HeaderName {
        HeaderName::from_bytes(name.as_bytes()).unwrap()
    }

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
                        fields.append(NAMES[n], &value.into());
                        map.append(header(NAMES[n]), value.into());
                    }
                    Change::Insert(n, value) => {
                        fields.insert(NAMES[n], &value.into());
                        map.insert(header(NAMES[n]), value.into());
                    }
                    Change::Remove(n) => {
                        fields.remove(NAMES[n]);
                        map.remove(header(NAMES[n]));
                    }
                }
            }
            prop_assert_eq!(fields.len(), map.len());
            for name in NAMES {
                prop_assert_eq!(fields.get(name), map.get(header(name)).map(HeaderValue::as_bytes));
                prop_assert_eq!(fields.contains(name), map.contains_key(header(name)));
                let all: Vec<_> = fields.get_all(name).collect();
                prop_assert_eq!(all, map.get_all(header(name)).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>());
            }
            let lines: Vec<u8> = fields.iter().flat_map(Field::line).copied().collect();
            let said = fields.iter().map(|field| [field.written_name(), b": ", field.value(), b"\r\n"].concat());
            prop_assert_eq!(lines, said.collect::<Vec<_>>().concat());
            prop_assert_eq!(HeaderMap::from(&fields), map.clone());
            prop_assert_eq!(HeaderMap::from(&Fields::from(&map)), map);
        }
    }

    #[test]
    fn they_stay_in_order_and_one_that_is_said_anew_stays_in_its_place() {
        let mut fields = Fields::default();
        for (n, name) in [0, 1, 0, 2].into_iter().enumerate() {
            fields.append(NAMES[name], &n.into());
        }
        fields.insert(NAMES[0], &9.into());
        let said: Vec<_> = fields.iter().map(|field| (field.written_name(), field.value())).collect();
        assert_eq!(said, [(&b"host"[..], &b"9"[..]), (b"via", b"1"), (b"te", b"3")]);
    }
}
