// Counts what one process allocates and copies: preloaded by bench/op_counts.py, which reads the counters from a file.
//
// Invariants: forwards every call unchanged. Counters are four little-endian 64-bit numbers in the file
// $AGRO_OP_COUNTS/PID: allocations, their bytes, copies of 4096 bytes or more, their bytes.
// Copies that the compiler did inline are not seen.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t unmapped[4];
static uint64_t* counters = unmapped;

__attribute__((constructor)) static void map_counters(void) {
  const char* directory = getenv("AGRO_OP_COUNTS");
  if (directory == NULL) return;
  char path[4096];
  snprintf(path, sizeof path, "%s/%d", directory, (int)getpid());
  const int file = open(path, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, 4096) != 0) return;
  void* mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) counters = mapped;
}

static void count(int what, size_t size) {
  __atomic_fetch_add(&counters[what], 1, __ATOMIC_RELAXED);
  __atomic_fetch_add(&counters[what + 1], size, __ATOMIC_RELAXED);
}

#define FORWARD(name) \
  static __typeof__(&name) next; \
  if (next == NULL) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define ALLOCATOR(name, size, arguments, ...) \
  void* name(__VA_ARGS__) { \
    FORWARD(name); \
    count(0, size); \
    return next arguments; \
  }

ALLOCATOR(malloc, size, (size), size_t size)
ALLOCATOR(aligned_alloc, size, (alignment, size), size_t alignment, size_t size)
ALLOCATOR(_Znwm, size, (size), size_t size)
ALLOCATOR(_Znam, size, (size), size_t size)
ALLOCATOR(_ZnwmRKSt9nothrow_t, size, (size, tag), size_t size, const void* tag)
ALLOCATOR(_ZnwmSt11align_val_t, size, (size, alignment), size_t size, size_t alignment)
ALLOCATOR(_ZnamSt11align_val_t, size, (size, alignment), size_t size, size_t alignment)

#define COPIER(name) \
  void* name(void* out, const void* in, size_t size) { \
    FORWARD(name); \
    if (size >= 4096) count(2, size); \
    return next(out, in, size); \
  }

COPIER(memcpy)
COPIER(memmove)
