//! Access control lists (acl(5)), as the kernel keeps them: `posix_acl_xattr.h` of Linux. The crates for
//! them go through the C library's, by paths.

/// The attribute that holds a file's or folder's list, and the one that is inherited.
pub(super) const ACCESS: &str = "system.posix_acl_access";
pub(super) const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;

/// Whom an entry is for.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Of an entry that names nobody.
const NO_ID: u32 = u32::MAX;

const READ_AND_ENTER: u16 = 5;

/// The list of a folder that is its owner's, and that one user may read.
pub(super) fn read_by(uid: u32) -> Vec<u8> {
    let entries = [
        (USER_OBJ, 7, NO_ID),
        (USER, READ_AND_ENTER, uid),
        (GROUP_OBJ, 0, NO_ID),
        (MASK, READ_AND_ENTER, NO_ID),
        (OTHER, 0, NO_ID),
    ];
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}
