//! What holds at present: read by many on one thread, and replaced while they go on.

use std::cell::RefCell;
use std::rc::Rc;

/// A value of one thread that is replaced as a whole. Whoever has it keeps what held when it asked.
pub struct Current<T>(RefCell<Rc<T>>);

impl<T> Current<T> {
    /// Begins with this.
    pub fn new(value: T) -> Self {
        Self(RefCell::new(Rc::new(value)))
    }

    /// What holds now.
    pub fn get(&self) -> Rc<T> {
        self.0.borrow().clone()
    }

    /// From now on this holds.
    pub fn set(&self, value: T) {
        // The old one is dropped after the borrow.
        drop(self.0.replace(Rc::new(value)));
    }
}
