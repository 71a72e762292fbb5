/* CRC32C (Castagnoli, reflected 0x82f63b78), by the processor's own instruction where it has one. */
#ifndef VIRTFLASH_CRC32C_H
#define VIRTFLASH_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t crc32c_table[256];
static int crc32c_table_made;

/* Made by whoever comes first; made twice at the same time, it is made the same. */
static void crc32c_make_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0x82f63b78u : value >> 1;
        crc32c_table[byte] = value;
    }
    __atomic_store_n(&crc32c_table_made, 1, __ATOMIC_RELEASE);
}

static inline uint32_t crc32c_software(uint32_t crc, const unsigned char *bytes, size_t length)
{
    if (!__atomic_load_n(&crc32c_table_made, __ATOMIC_ACQUIRE))
        crc32c_make_table();
    while (length--)
        crc = crc32c_table[(crc ^ *bytes++) & 0xff] ^ crc >> 8;
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2")))
static uint32_t crc32c_hardware(uint32_t crc, const unsigned char *bytes, size_t length)
{
    uint64_t value = crc, word;
    for (; length >= 8; bytes += 8, length -= 8) {
        memcpy(&word, bytes, 8);
        value = __builtin_ia32_crc32di(value, word);
    }
    while (length--)
        value = __builtin_ia32_crc32qi((uint32_t)value, *bytes++);
    return (uint32_t)value;
}
#define CRC32C_HARDWARE() __builtin_cpu_supports("sse4.2")
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static uint32_t crc32c_hardware(uint32_t crc, const unsigned char *bytes, size_t length)
{
    uint64_t word;
    for (; length >= 8; bytes += 8, length -= 8) {
        memcpy(&word, bytes, 8);
        crc = __crc32cd(crc, word);
    }
    while (length--)
        crc = __crc32cb(crc, *bytes++);
    return crc;
}
#define CRC32C_HARDWARE() 1
#else
#define crc32c_hardware crc32c_software
#define CRC32C_HARDWARE() 0
#endif

/* Of `length` bytes; `crc`: of the bytes before, 0 at first. */
static inline uint32_t crc32c(uint32_t crc, const void *bytes, size_t length)
{
    crc = ~crc;
    if (CRC32C_HARDWARE())
        return ~crc32c_hardware(crc, bytes, length);
    return ~crc32c_software(crc, bytes, length);
}

#endif
