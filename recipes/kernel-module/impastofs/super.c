// SPDX-License-Identifier: GPL-2.0
/*
 * impastofs: a file system in memory. It keeps what is written to it until it is unmounted.
 *
 * It shows that a module was compiled for the kernel that it is loaded into: it needs kernel functions whose types
 * differ between kernels.
 */

#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/module.h>
#include <linux/pagemap.h>

#include "impastofs.h"

#define IMPASTOFS_MAGIC 0x696d7073 /* "imps" */

static const struct super_operations impastofs_super_operations = {
	.statfs = simple_statfs,
	.drop_inode = generic_delete_inode,
};

static int impastofs_fill_super(struct super_block *sb, struct fs_context *context)
{
	struct inode *root;

	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = IMPASTOFS_MAGIC;
	sb->s_op = &impastofs_super_operations;
	sb->s_time_gran = 1;
	root = impastofs_new_inode(sb, NULL, S_IFDIR | 0755);
	sb->s_root = d_make_root(root);
	return sb->s_root ? 0 : -ENOMEM;
}

static int impastofs_get_tree(struct fs_context *context)
{
	return get_tree_nodev(context, impastofs_fill_super);
}

static const struct fs_context_operations impastofs_context_operations = {
	.get_tree = impastofs_get_tree,
};

static int impastofs_init_fs_context(struct fs_context *context)
{
	context->ops = &impastofs_context_operations;
	return 0;
}

static struct file_system_type impastofs_type = {
	.owner = THIS_MODULE,
	.name = "impastofs",
	.init_fs_context = impastofs_init_fs_context,
	.kill_sb = kill_litter_super,
};

static int __init impastofs_init(void)
{
	return register_filesystem(&impastofs_type);
}

static void __exit impastofs_exit(void)
{
	unregister_filesystem(&impastofs_type);
}

module_init(impastofs_init);
module_exit(impastofs_exit);

MODULE_ALIAS_FS("impastofs");
MODULE_DESCRIPTION("A file system in memory");
MODULE_VERSION("1.0");
MODULE_LICENSE("GPL");
