//! Sets of numbers as sorted ranges, never empty, shared when they are long.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What ranges are made of.
pub trait Number: Copy + Ord + Hash + Debug {
    /// The smallest.
    const MIN: Self;
    /// The largest.
    const MAX: Self;
    /// The next one; only asked of those that have one.
    fn next(self) -> Self;
    /// The one before; only asked of those that have one.
    fn previous(self) -> Self;
}

macro_rules! number {
    ($type:ty) => {
        impl Number for $type {
            const MIN: Self = 0;
            const MAX: Self = <$type>::MAX;
            fn next(self) -> Self {
                self + 1
            }
            fn previous(self) -> Self {
                self - 1
            }
        }
    };
}

number!(u16);
number!(u128);

/// Neighbouring numbers, the last one included; the first is never above the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span<T> {
    /// The first.
    pub first: T,
    /// The last.
    pub last: T,
}

impl<T: Number> Span<T> {
    /// All numbers.
    pub const ALL: Span<T> = Span { first: T::MIN, last: T::MAX };

    /// Whether the number is in it.
    pub fn contains(self, number: T) -> bool {
        self.first <= number && number <= self.last
    }

    fn meet(self, other: Span<T>) -> Option<Span<T>> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Span { first, last })
    }
}

/// A set of numbers that is not empty: disjoint ranges in order, no two of which touch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ranges<T>(Kind<T>);

/// There are never fewer than two ranges in `Many`, so that equal sets are kept alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind<T> {
    One(Span<T>),
    Many(Shared<T>),
}

#[derive(Clone, Debug)]
struct Shared<T>(Arc<Listed<T>>);

#[derive(Debug)]
struct Listed<T> {
    hash: u64,
    spans: Box<[Span<T>]>,
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.hash == other.0.hash && self.0.spans == other.0.spans
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl<T: Number> From<Span<T>> for Ranges<T> {
    fn from(span: Span<T>) -> Self {
        Ranges(Kind::One(span))
    }
}

impl<T: Number> Ranges<T> {
    /// All numbers.
    pub fn all() -> Self {
        Span::ALL.into()
    }

    /// What is in any of these; `None` if nothing is.
    pub fn of(mut spans: Vec<Span<T>>) -> Option<Self> {
        spans.sort_unstable();
        let mut kept = 0;
        for index in 0..spans.len() {
            let span = spans[index];
            if kept > 0 && (spans[kept - 1].last == T::MAX || spans[kept - 1].last.next() >= span.first) {
                spans[kept - 1].last = spans[kept - 1].last.max(span.last);
            } else {
                spans[kept] = span;
                kept += 1;
            }
        }
        spans.truncate(kept);
        Self::sorted(spans)
    }

    /// Of ranges that are disjoint and in order, and don't touch.
    fn sorted(spans: Vec<Span<T>>) -> Option<Self> {
        match spans[..] {
            [] => None,
            [span] => Some(span.into()),
            _ => {
                let mut hasher = DefaultHasher::new();
                spans.hash(&mut hasher);
                let listed = Listed { hash: hasher.finish(), spans: spans.into_boxed_slice() };
                Some(Ranges(Kind::Many(Shared(Arc::new(listed)))))
            }
        }
    }

    /// The ranges, in order.
    pub fn spans(&self) -> &[Span<T>] {
        match &self.0 {
            Kind::One(span) => std::slice::from_ref(span),
            Kind::Many(shared) => &shared.0.spans,
        }
    }

    /// From the first to the last of its numbers.
    pub fn hull(&self) -> Span<T> {
        let spans = self.spans();
        Span { first: spans[0].first, last: spans[spans.len() - 1].last }
    }

    /// The only range, if there is just one.
    pub fn single(&self) -> Option<Span<T>> {
        match self.0 {
            Kind::One(span) => Some(span),
            Kind::Many(_) => None,
        }
    }

    /// Whether these are all numbers.
    pub fn is_all(&self) -> bool {
        self.single() == Some(Span::ALL)
    }

    /// Whether the number is in it.
    pub fn contains(&self, number: T) -> bool {
        let spans = self.spans();
        let place = spans.partition_point(|span| span.last < number);
        spans.get(place).is_some_and(|span| span.first <= number)
    }

    /// Whether everything in it is in the other, too.
    pub fn is_subset(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.hull(), other.hull());
        if self.0 == other.0 || other.single().is_some_and(|span| span.first <= mine.first && mine.last <= span.last) {
            return true;
        }
        if theirs.first > mine.first || theirs.last < mine.last {
            return false;
        }
        let theirs = other.spans();
        let mut place = 0;
        self.spans().iter().all(|span| {
            place += theirs[place..].partition_point(|candidate| candidate.last < span.first);
            theirs.get(place).is_some_and(|candidate| candidate.first <= span.first && span.last <= candidate.last)
        })
    }

    /// Whether something is in both.
    pub fn meets(&self, other: &Self) -> bool {
        if self.hull().meet(other.hull()).is_none() {
            return false;
        }
        let (few, many) = if self.spans().len() < other.spans().len() { (self, other) } else { (other, self) };
        few.spans().iter().any(|span| {
            let place = many.spans().partition_point(|candidate| candidate.last < span.first);
            many.spans().get(place).is_some_and(|candidate| candidate.first <= span.last)
        })
    }

    /// What is in both. Shares the ranges of one of them where it is the same.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if let (Kind::One(mine), Kind::One(theirs)) = (&self.0, &other.0) {
            return mine.meet(*theirs).map(Into::into);
        }
        if self.is_subset(other) {
            return Some(self.clone());
        }
        if other.is_subset(self) {
            return Some(other.clone());
        }
        let (few, many) = if self.spans().len() < other.spans().len() { (self, other) } else { (other, self) };
        let mut both = Vec::new();
        for span in few.spans() {
            let place = many.spans().partition_point(|candidate| candidate.last < span.first);
            let meeting = many.spans()[place..].iter().map_while(|candidate| candidate.meet(*span));
            both.extend(meeting);
        }
        Self::sorted(both)
    }

    /// What is in this one but not in the other.
    pub fn difference(&self, other: &Self) -> Option<Self> {
        let mut left = Vec::new();
        for span in self.spans() {
            let mut first = Some(span.first);
            let place = other.spans().partition_point(|candidate| candidate.last < span.first);
            for taken in other.spans()[place..].iter().take_while(|taken| taken.first <= span.last) {
                if let Some(first) = first.filter(|first| *first < taken.first) {
                    left.push(Span { first, last: taken.first.previous() });
                }
                first = (taken.last < span.last).then(|| taken.last.next());
            }
            left.extend(first.map(|first| Span { first, last: span.last }));
        }
        Self::sorted(left)
    }
}
