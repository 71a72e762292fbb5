/* CRC32C (Castagnoli, reflected polynomial 0x82F63B78, as in iSCSI, RFC 3720 B.4): the instruction where there is one.
 *
 * The instruction takes three cycles and can be started in each, so three thirds of a stretch are done side by side; a
 * checksum is then carried over the next third by multiplying it with x^(bits of a third), modulo the polynomial.
 */
#ifndef VIRTFLASH_CRC32C_H
#define VIRTFLASH_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

enum { CRC32C_THIRD = 1360 }; /* bytes: three of them are just below a page of 4096 */

static uint32_t crc32c_bytes[256];    /* by byte: the checksum of it */
static uint32_t crc32c_carry[4][256]; /* by position and byte of a checksum: what it is a third later */
static int crc32c_instruction;

/* Polynomials over GF(2), the highest power in the lowest bit. */
static uint32_t crc32c_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = (b >> 1) ^ (b & 1 ? 0x82F63B78u : 0);
    }
    return product;
}

__attribute__((constructor)) static void crc32c_prepare(void)
{
    uint32_t shift = 1u << 31;
    for (int bit = 0; bit < CRC32C_THIRD * 8; bit++)
        shift = (shift >> 1) ^ (shift & 1 ? 0x82F63B78u : 0);
    for (uint32_t byte = 0; byte < 256; byte++) {
        crc32c_bytes[byte] = byte;
        for (int bit = 0; bit < 8; bit++)
            crc32c_bytes[byte] = (crc32c_bytes[byte] >> 1) ^ (crc32c_bytes[byte] & 1 ? 0x82F63B78u : 0);
        for (int position = 0; position < 4; position++)
            crc32c_carry[position][byte] = crc32c_multiply(shift, byte << (8 * position));
    }
#if defined(__x86_64__)
    crc32c_instruction = __builtin_cpu_supports("sse4.2") != 0;
#elif defined(__aarch64__)
    crc32c_instruction = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#endif
}

static inline uint32_t crc32c_over_a_third(uint32_t crc)
{
    return crc32c_carry[0][crc & 255] ^ crc32c_carry[1][crc >> 8 & 255] ^ crc32c_carry[2][crc >> 16 & 255] ^
           crc32c_carry[3][crc >> 24];
}

static uint32_t crc32c_by_table(uint32_t crc, const char *data, size_t size)
{
    while (size--)
        crc = (crc >> 8) ^ crc32c_bytes[(crc ^ (uint8_t)*data++) & 255];
    return crc;
}

#if defined(__x86_64__) || defined(__aarch64__)
#if defined(__x86_64__)
#define CRC32C_TARGET __attribute__((target("sse4.2")))
#define CRC32C_8(crc, data) ((uint32_t)__builtin_ia32_crc32di(crc, data))
#define CRC32C_1(crc, data) __builtin_ia32_crc32qi(crc, data)
#else
#define CRC32C_TARGET __attribute__((target("+crc")))
#define CRC32C_8(crc, data) __crc32cd(crc, data)
#define CRC32C_1(crc, data) __crc32cb(crc, data)
#endif

static inline uint64_t crc32c_word(const char *data)
{
    uint64_t word;
    memcpy(&word, data, 8);
    return word;
}

CRC32C_TARGET static uint32_t crc32c_by_instruction(uint32_t crc, const char *data, size_t size)
{
    while (size >= 3 * CRC32C_THIRD) {
        uint32_t second = 0, third = 0;
        for (const char *end = data + CRC32C_THIRD; data < end; data += 8) {
            crc = CRC32C_8(crc, crc32c_word(data));
            second = CRC32C_8(second, crc32c_word(data + CRC32C_THIRD));
            third = CRC32C_8(third, crc32c_word(data + 2 * CRC32C_THIRD));
        }
        crc = crc32c_over_a_third(crc32c_over_a_third(crc) ^ second) ^ third;
        data += 2 * CRC32C_THIRD;
        size -= 3 * CRC32C_THIRD;
    }
    for (; size >= 8; size -= 8, data += 8)
        crc = CRC32C_8(crc, crc32c_word(data));
    while (size--)
        crc = CRC32C_1(crc, (uint8_t)*data++);
    return crc;
}
#else
#define crc32c_by_instruction crc32c_by_table
#endif

static inline uint32_t crc32c(const void *data, size_t size)
{
    return ~(crc32c_instruction ? crc32c_by_instruction : crc32c_by_table)(~0u, (const char *)data, size);
}

/* For tests: the way that machines without the instruction go. */
static inline uint32_t crc32c_plain(const void *data, size_t size)
{
    return ~crc32c_by_table(~0u, (const char *)data, size);
}

#endif
