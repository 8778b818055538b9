/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IMPASTOFS_H
#define IMPASTOFS_H

#include <linux/fs.h>

struct inode *impastofs_new_inode(struct super_block *sb, struct inode *dir, umode_t mode);

#endif
