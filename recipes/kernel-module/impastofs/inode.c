// SPDX-License-Identifier: GPL-2.0
/*
 * Inodes: directories that live in the cache of names, files and links whose content lives in the page cache.
 */

#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "impastofs.h"

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define MOUNT_IDS struct mnt_idmap *ids
#define NO_IDS (&nop_mnt_idmap)
#else
#define MOUNT_IDS struct user_namespace *ids
#define NO_IDS (&init_user_ns)
#endif

/* When something in a directory changes, so do its times. */
static void impastofs_touch(struct inode *dir)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	inode_set_mtime_to_ts(dir, inode_set_ctime_current(dir));
#else
	dir->i_mtime = dir->i_ctime = current_time(dir);
#endif
}

static int impastofs_add(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct inode *inode = impastofs_new_inode(dir->i_sb, dir, mode);

	if (!inode)
		return -ENOSPC;
	d_instantiate(dentry, inode);
	/* Nothing but the cache knows the name, so the cache must not drop it. */
	dget(dentry);
	impastofs_touch(dir);
	return 0;
}

static int impastofs_create(MOUNT_IDS, struct inode *dir, struct dentry *dentry, umode_t mode, bool excl)
{
	return impastofs_add(dir, dentry, mode | S_IFREG);
}

static int impastofs_mkdir(MOUNT_IDS, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	int error = impastofs_add(dir, dentry, mode | S_IFDIR);

	if (!error)
		inc_nlink(dir);
	return error;
}

static int impastofs_symlink(MOUNT_IDS, struct inode *dir, struct dentry *dentry, const char *target)
{
	struct inode *inode = impastofs_new_inode(dir->i_sb, dir, S_IFLNK | 0777);
	int error;

	if (!inode)
		return -ENOSPC;
	error = page_symlink(inode, target, strlen(target) + 1);
	if (error) {
		iput(inode);
		return error;
	}
	d_instantiate(dentry, inode);
	dget(dentry);
	impastofs_touch(dir);
	return 0;
}

static const struct inode_operations impastofs_dir_operations = {
	.create = impastofs_create,
	.lookup = simple_lookup,
	.link = simple_link,
	.unlink = simple_unlink,
	.symlink = impastofs_symlink,
	.mkdir = impastofs_mkdir,
	.rmdir = simple_rmdir,
	.rename = simple_rename,
};

static const struct inode_operations impastofs_file_inode_operations = {
	.setattr = simple_setattr,
	.getattr = simple_getattr,
};

static const struct file_operations impastofs_file_operations = {
	.read_iter = generic_file_read_iter,
	.write_iter = generic_file_write_iter,
	.mmap = generic_file_mmap,
	.fsync = noop_fsync,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
	.splice_read = filemap_splice_read,
#else
	.splice_read = generic_file_splice_read,
#endif
	.splice_write = iter_file_splice_write,
	.llseek = generic_file_llseek,
};

struct inode *impastofs_new_inode(struct super_block *sb, struct inode *dir, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode_init_owner(NO_IDS, inode, dir, mode);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	simple_inode_init_ts(inode);
#else
	inode->i_atime = inode->i_mtime = inode->i_ctime = current_time(inode);
#endif
	inode->i_mapping->a_ops = &ram_aops;
	mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER);
	/* There is no disk that the pages could go to. */
	mapping_set_unevictable(inode->i_mapping);
	switch (mode & S_IFMT) {
	case S_IFREG:
		inode->i_op = &impastofs_file_inode_operations;
		inode->i_fop = &impastofs_file_operations;
		break;
	case S_IFDIR:
		inode->i_op = &impastofs_dir_operations;
		inode->i_fop = &simple_dir_operations;
		/* Its name, and `.` in itself. */
		inc_nlink(inode);
		break;
	case S_IFLNK:
		inode->i_op = &page_symlink_inode_operations;
		inode_nohighmem(inode);
		break;
	}
	return inode;
}
