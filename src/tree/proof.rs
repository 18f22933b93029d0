//! What proves a generation, beside its record: bytes that somebody has signed.

/// What proves a generation, as far as it is there, in the order of `GenerationName::proof`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof(pub(super) [Option<Vec<u8>>; PARTS]);

pub(super) const PARTS: usize = 5;

/// Bytes, and the signature of these, as far as they are there.
type Signed<'p> = [Option<&'p [u8]>; 2];

/// Of an image that came by this manifest, with this signature, if somebody has signed it.
impl From<Option<[Vec<u8>; 2]>> for Proof {
    fn from(signed: Option<[Vec<u8>; 2]>) -> Self {
        let [manifest, signature] = parts(signed);
        Self([manifest, signature, None, None, None])
    }
}

/// Of an image that came with the order that has promoted it: what was signed of the image, and of the order.
impl From<[Option<[Vec<u8>; 2]>; 2]> for Proof {
    fn from([image, order]: [Option<[Vec<u8>; 2]>; 2]) -> Self {
        Self::from(image).promoted_by(order)
    }
}

impl Proof {
    /// Of an image that this order promotes, with this signature, if somebody has signed it.
    pub(crate) fn promoted_by(self, signed: Option<[Vec<u8>; 2]>) -> Self {
        let mut earlier = self.earlier();
        if let [Some(order), Some(signature)] = self.order() {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            earlier.push([text(order), text(signature)]);
        }
        let is_wanted = signed.is_some() && !earlier.is_empty();
        let earlier =
            is_wanted.then(|| serde_json::to_vec(&earlier).expect("texts are plain data"));
        let [manifest, signature, ..] = self.0;
        let [order, of_order] = parts(signed);
        Self([manifest, signature, order, of_order, earlier])
    }

    /// The manifest by which the image came into the tree.
    pub(crate) fn image(&self) -> Signed<'_> {
        [self.0[0].as_deref(), self.0[1].as_deref()]
    }

    /// The order that has promoted the image to where it is.
    pub(crate) fn order(&self) -> Signed<'_> {
        [self.0[2].as_deref(), self.0[3].as_deref()]
    }

    /// The orders, each with its signature, that have promoted the image before, the oldest first. What
    /// can't be read proves nothing.
    pub(crate) fn earlier(&self) -> Vec<[String; 2]> {
        let earlier = self.0[4].as_deref();
        let earlier = earlier.and_then(|bytes| serde_json::from_slice(bytes).ok());
        earlier.unwrap_or_default()
    }
}

fn parts(signed: Option<[Vec<u8>; 2]>) -> [Option<Vec<u8>>; 2] {
    signed.map_or([None, None], |signed| signed.map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(name: &str) -> [Vec<u8>; 2] {
        [name.as_bytes().to_vec(), format!("{name}.sig").into_bytes()]
    }

    #[test]
    fn each_order_is_kept_that_has_promoted_an_image() {
        let image = Proof::from(Some(signed("image")));
        let once = image.promoted_by(Some(signed("a")));
        assert_eq!(once.earlier(), [[""; 2]; 0]);
        assert_eq!(once.0.iter().flatten().count(), 4);
        let again = once.promoted_by(Some(signed("b")));
        let again = again.promoted_by(Some(signed("\"c\"\n")));
        assert_eq!(again.image(), [Some(&b"image"[..]), Some(b"image.sig")]);
        assert_eq!(again.order(), [Some(&b"\"c\"\n"[..]), Some(b"\"c\"\n.sig")]);
        assert_eq!(again.earlier(), [["a", "a.sig"], ["b", "b.sig"]]);
        let unsigned = again.promoted_by(None);
        assert_eq!(unsigned.0.iter().flatten().count(), 2);
    }
}
