/* A full disk, for the tests: loaded before a program (LD_PRELOAD), this library answers "no space left on device" to
 * whatever needs new space below some folders, for as long as a file names them.
 *
 *   FULL_DISK_FLAG   a file with one folder a line: absolute paths without symbolic links. While it is missing or empty
 *                    nothing is full.
 *
 * As on a real disk, new files and names cost nothing, and neither does writing over what a file already holds: only
 * octets past its end or in its holes need space, and folders do. Calls that bypass the C library are not seen.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FOLDERS_MAX 4096

/* Whether one of the folders that are full holds this path. */
static int is_full(const char *path) {
    const char *flag = getenv("FULL_DISK_FLAG");
    if (!flag) return 0;
    int file = (int)syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    char folders[FOLDERS_MAX + 1];
    long length = syscall(SYS_read, file, folders, FOLDERS_MAX);
    syscall(SYS_close, file);
    folders[length > 0 ? length : 0] = 0;
    char *rest = folders, *folder;
    while ((folder = strsep(&rest, "\n"))) {
        size_t bytes = strlen(folder);
        if (bytes > 0 && strncmp(path, folder, bytes) == 0 && (path[bytes] == '/' || path[bytes] == 0)) return 1;
    }
    return 0;
}

/* Whether writing there takes space that is not there. A negative offset stands for the file's own. */
static int no_room(int fd, off_t at, size_t length) {
    struct stat st;
    if (length == 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return 0;
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long bytes = syscall(SYS_readlinkat, AT_FDCWD, name, path, PATH_MAX - 1);
    if (bytes <= 0) return 0;
    path[bytes] = 0;
    if (!is_full(path)) return 0;
    off_t own = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    if (at < 0) at = fcntl(fd, F_GETFL) & O_APPEND ? st.st_size : own;
    if (at + (off_t)length > st.st_size) return 1;
    off_t hole = (off_t)syscall(SYS_lseek, fd, at, SEEK_HOLE);
    syscall(SYS_lseek, fd, own, SEEK_SET);
    return hole >= 0 && hole < at + (off_t)length;
}

#define REFUSE do { errno = ENOSPC; return -1; } while (0)

ssize_t write(int fd, const void *from, size_t length) {
    if (no_room(fd, -1, length)) REFUSE;
    return syscall(SYS_write, fd, from, length);
}

ssize_t pwrite(int fd, const void *from, size_t length, off_t at) {
    if (no_room(fd, at, length)) REFUSE;
    return syscall(SYS_pwrite64, fd, from, length, at);
}

ssize_t pwrite64(int fd, const void *from, size_t length, off64_t at) { return pwrite(fd, from, length, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    size_t length = 0;
    for (int part = 0; part < count; part++) length += parts[part].iov_len;
    if (no_room(fd, -1, length)) REFUSE;
    return syscall(SYS_writev, fd, parts, count);
}

int fallocate(int fd, int mode, off_t at, off_t length) {
    if (no_room(fd, at, (size_t)length)) REFUSE;
    return (int)syscall(SYS_fallocate, fd, mode, at, length);
}

int fallocate64(int fd, int mode, off64_t at, off64_t length) { return fallocate(fd, mode, at, length); }

int posix_fallocate(int fd, off_t at, off_t length) {
    if (no_room(fd, at, (size_t)length)) return ENOSPC;
    return syscall(SYS_fallocate, fd, 0, at, length) == 0 ? 0 : errno;
}

int posix_fallocate64(int fd, off64_t at, off64_t length) { return posix_fallocate(fd, at, length); }

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    if (no_room(to, to_at ? *to_at : -1, length)) REFUSE;
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags);
}

int mkdirat(int dir, const char *name, mode_t mode) {
    if (name[0] == '/' && is_full(name)) REFUSE;
    return (int)syscall(SYS_mkdirat, dir, name, mode);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
