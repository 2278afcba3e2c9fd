"""PPO and its critic-free relatives: rollouts, advantages, and the clipped objective.

Reading order: `stage`, `rollout`, `experience`, `objective`, `actor_critic`.
"""
