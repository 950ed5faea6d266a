//! Which connections are joined to each other.
//!
//! Owns the pairs, by token. Knows no connection: the loop lends each one's partner to it.

use mio::Token;

/// Pairs of joined connections. A loop that joins none keeps nothing here.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// The partner of each connection.
    partners: Vec<Option<Token>>,
}

impl Pairs {
    /// The connection that `token` is joined to.
    #[inline]
    pub(crate) fn partner(&self, token: Token) -> Option<Token> {
        self.partners.get(token.0).copied().flatten()
    }

    /// Joins two connections. Neither has a partner yet.
    pub(crate) fn join(&mut self, one: Token, other: Token) {
        let most = one.0.max(other.0);
        if self.partners.len() <= most {
            self.partners.resize(most + 1, None);
        }
        self.partners[one.0] = Some(other);
        self.partners[other.0] = Some(one);
    }

    /// Forgets the pair of `token`, if it is in one. Returns its partner.
    pub(crate) fn part(&mut self, token: Token) -> Option<Token> {
        let partner = self.partners.get_mut(token.0)?.take()?;
        self.partners[partner.0] = None;
        Some(partner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_a_pair_finds_the_other_until_they_part() {
        let mut pairs = Pairs::default();
        assert_eq!(pairs.part(Token(3)), None);
        pairs.join(Token(3), Token(1));
        assert_eq!((pairs.partner(Token(1)), pairs.partner(Token(3))), (Some(Token(3)), Some(Token(1))));
        assert_eq!((pairs.partner(Token(0)), pairs.partner(Token(9))), (None, None));
        assert_eq!(pairs.part(Token(1)), Some(Token(3)));
        assert_eq!((pairs.partner(Token(3)), pairs.part(Token(3))), (None, None));
    }
}
