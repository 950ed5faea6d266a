//! Where the connections are: a list whose places are numbered, and given away again.
//!
//! Owns the places and the list of those that are free. A place is given away again only when it is released, and the
//! loop releases it when the role has heard that its connection ended. So what the role does to the old connection
//! until then reaches no new one.

/// Numbered places for values. The numbers are small and count up from 0, so they index lists elsewhere as well.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<Option<T>>,
    /// Places that may be given away. The last to be freed comes first: its memory is still in the caches.
    free: Vec<usize>,
    values: usize,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Slots<T> {
        Slots { places: Vec::new(), free: Vec::new(), values: 0 }
    }

    /// Gives a place away. It has no value yet.
    pub(crate) fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        })
    }

    /// Puts a value into a reserved place, which has none.
    pub(crate) fn put(&mut self, place: usize, value: T) {
        let before = self.places[place].replace(value);
        debug_assert!(before.is_none(), "place {place} had a value");
        self.values += 1;
    }

    /// Takes the value out. The place stays reserved.
    pub(crate) fn take(&mut self, place: usize) -> Option<T> {
        let value = self.places.get_mut(place)?.take();
        self.values -= usize::from(value.is_some());
        value
    }

    /// Frees a reserved place without a value.
    pub(crate) fn release(&mut self, place: usize) {
        debug_assert!(self.places[place].is_none(), "place {place} has a value");
        self.free.push(place);
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.values
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        self.places.get(place)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.places.get_mut(place)?.as_mut()
    }

    /// A value, and another one with it if that is asked for and has a place of its own.
    #[inline]
    pub(crate) fn get_mut_with(&mut self, one: usize, other: Option<usize>) -> Option<(&mut T, Option<&mut T>)> {
        match other.map(|other| [one, other]) {
            None => Some((self.get_mut(one)?, None)),
            Some(both) => match self.places.get_disjoint_mut(both) {
                Ok([Some(one), other]) => Some((one, other.as_mut())),
                _ => None,
            },
        }
    }

    /// All values with their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.places.iter().enumerate().filter_map(|(place, value)| Some((place, value.as_ref()?)))
    }

    /// All values with their places, to change them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(place, value)| Some((place, value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_away_again_only_when_it_is_released() {
        let mut slots = Slots::new();
        let (one, two) = (slots.reserve(), slots.reserve());
        slots.put(one, "one");
        slots.put(two, "two");
        assert_eq!(slots.take(one), Some("one"));
        assert_eq!((slots.get(one), slots.len()), (None, 1));
        let three = slots.reserve();
        assert!(three != one && three != two);
        slots.release(three);
        slots.release(one);
        assert_eq!([slots.reserve(), slots.reserve()], [one, three]);
    }

    #[test]
    fn two_values_can_be_changed_at_once() {
        let mut slots = Slots::new();
        for value in [10, 20] {
            let place = slots.reserve();
            slots.put(place, value);
        }
        let (one, two) = slots.get_mut_with(0, Some(1)).unwrap();
        std::mem::swap(one, two.unwrap());
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(0, &20), (1, &10)]);
        assert!(slots.get_mut_with(1, Some(1)).is_none(), "one value cannot be changed twice at once");
        assert_eq!(slots.get_mut_with(1, None), Some((&mut 10, None)));
        assert_eq!(slots.take(0), Some(20));
        assert_eq!(slots.get_mut_with(1, Some(0)), Some((&mut 10, None)));
        assert_eq!(slots.get_mut_with(0, Some(1)), None);
    }
}
